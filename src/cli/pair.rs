use std::{
    ffi::OsStr,
    io::{IsTerminal, Write, stderr, stdin},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
};

use clap::Args;
use clap_complete::{ArgValueCompleter, CompletionCandidate};
use tokio::time::Instant;

use super::{
    RootArg, chat::own_folder, completion::contacts, folder_name, init::make_user, output,
    user_arg::UserArg, user_name,
};
use crate::{
    client::relay_slot,
    control::{question, slot},
    error::{Code as ErrorCode, Error},
    hooks::bundled,
    pairing::{
        code::{self, Code},
        host, joiner, owner,
        party::Party,
        remote_slot::RemoteSlot,
        slots::LIFE,
    },
    root::{
        Root,
        contact::Card,
        folder::{CHAT, Folder},
        name::Name,
        settings::Settings,
        user::User,
    },
    transport::{self, Address, Addresses, Direct, Listening, PORT, Place},
};

/// The folder that is made for files of others if the user has none.
const FOLDER: &str = "inbox";

/// Become contacts with somebody, by a code that one of you tells the other
///
/// Without a code, m2y shows one and waits until it is used:
///
///   m2y pair
///
/// The other person types it, anywhere:
///
///   m2y pair 7-lantern-orbit@roland.example.org:5000
///
/// Then each of you has the other's key, and may send into one folder of the other. A code
/// works once: a wrong guess cancels it, and you are told.
///
/// Where there is no m2y yet, `m2y pair` asks for a name and sets up what is needed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Pair {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The code that the other person sees
    #[arg(add = ArgValueCompleter::new(words))]
    code: Option<Code>,
    /// Your name, as others will see it, if m2y is not set up here yet
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder of yours that the other may send into [default: your only one, or inbox]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Where others reach this machine, for the code and for your card [default: address in
    /// m2y.ini, else found out]
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// Where to wait for the other person if no `m2y serve` is running [default: port 5000, or
    /// a free one]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "code")]
    listen: Option<Address>,
    /// Replace the key of this contact, who has a new one
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    replace: Option<String>,
}

impl Pair {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let (root, user) = self.set_up()?;
        let folder = self.folder_of(&user)?;
        // The two can talk at once.
        own_folder(&user, &folder_name(CHAT)?)?;
        let settings = root.settings()?;
        match self.code.clone() {
            Some(code) => self.join(&code, user, folder, &settings, json).await,
            None => self.own(&root, user, folder, &settings, json).await,
        }
    }

    /// The root and the user, made if there are none.
    fn set_up(&self) -> Result<(Root, User), Error> {
        let path = self.root.path();
        let root = match path.join("user").exists() {
            true => Some(self.root.open()?),
            false => None,
        };
        if let Some(root) = &root
            && (self.user.is_given() || !root.users()?.is_empty())
        {
            let user = self.user.of(root)?;
            let name = self.name.as_deref().map(user_name).transpose()?;
            if name.is_some_and(|name| name != *user.name()) {
                let sentence = format!(
                    "--name is for a new user, and {} exists already: use --user",
                    user.name()
                );
                return Err(Error::new(ErrorCode::Usage, sentence));
            }
            return Ok((root.clone(), user));
        }
        let name = match &self.name {
            Some(name) => user_name(name)?,
            None => ask_name(&path)?,
        };
        let (root, _) = Root::init(&path, bundled::ALL)?;
        output::aside(format_args!("making a key for {name}"));
        let (user, _) = make_user(&root, &name)?;
        Ok((root, user))
    }

    /// The folder that the other may send into.
    fn folder_of(&self, user: &User) -> Result<Folder, Error> {
        if let Some(folder) = &self.folder {
            return Ok(user.folder(&folder_name(folder)?)?);
        }
        let folders = user.folders()?.into_iter().collect::<Result<Vec<_>, _>>()?;
        // In that one, every contact may write.
        let is_for_files = |folder: &Folder| folder.name().as_str() != CHAT;
        let mut folders: Vec<_> = folders.into_iter().filter(is_for_files).collect();
        if folders.len() < 2 {
            return match folders.pop() {
                Some(only) => Ok(only),
                None => Ok(user.create_folder(&folder_name(FOLDER)?)?),
            };
        }
        let is_usual = |folder: &Folder| folder.name().as_str() == FOLDER;
        folders.into_iter().find(is_usual).ok_or_else(|| {
            let sentence =
                "you have several folders: name the one that the other may send into with --folder";
            Error::new(ErrorCode::Usage, sentence)
        })
    }

    async fn join(
        &self,
        code: &Code,
        user: User,
        folder: Folder,
        settings: &Settings,
        json: bool,
    ) -> Result<(), Error> {
        let listening = question::addresses(user.root()).await?.unwrap_or_default();
        let set = self.address.as_ref().or(settings.addresses.as_ref());
        let own = own_addresses(set, &user, &listening, code.address.is_local())?;
        let path = folder.path().to_owned();
        let replaced = self.replace.as_deref().map(user_name).transpose()?;
        let party = Party::new(user.clone(), Some(folder), own)?
            .with_box()?
            .replacing(replaced);
        let dialer = Direct::new(settings.quic_gso);
        let card = joiner::join(code, &dialer, &party).await?;
        let paired = Paired {
            user: &user,
            card: &card,
            path: &path,
            is_serving: !listening.is_empty(),
        };
        paired.tell(json);
        Ok(())
    }

    async fn own(
        &self,
        root: &Root,
        user: User,
        folder: Folder,
        settings: &Settings,
        json: bool,
    ) -> Result<(), Error> {
        let until = Instant::now() + LIFE;
        let set = self.address.as_ref().or(settings.addresses.as_ref());
        let meeting = self.meeting(root, &user, set.is_some()).await?;
        let Meeting {
            mut slot,
            relay,
            listening,
            is_serving,
        } = meeting;
        let is_local = listening.iter().all(Address::is_local);
        let own = own_addresses(set, &user, &listening, is_local)?;
        let at_relay = relay.is_some();
        let address = relay.or_else(|| direct(set, &listening)).ok_or_else(|| {
            let sentence = "this machine has no address that others could reach: name one with --address HOST:PORT";
            Error::new(ErrorCode::Usage, sentence)
        })?;
        let password = code::draw().map_err(|e| Error::new(ErrorCode::Failed, e.to_string()))?;
        let code = Code {
            slot: slot.number,
            password,
            address,
        };
        show(&code, json);
        // A listener that is gone when this program ends is no address for a card.
        let is_set = self.address.is_some() || settings.addresses.is_some();
        let is_reached = is_serving || at_relay || is_set;
        let own = own.filter(|_| is_reached);
        let path = folder.path().to_owned();
        let replaced = self.replace.as_deref().map(user_name).transpose()?;
        let party = Party::new(user.clone(), Some(folder), own)?
            .with_box()?
            .replacing(replaced);
        let left = |peer: &transport::Peer| {
            output::aside(format_args!(
                "somebody at {peer} came and left without a word"
            ));
        };
        let attempts = &mut slot.attempts;
        let attended = owner::attend(attempts, until, &code.password, &party, left).await;
        slot.close().await;
        let card = attended?;
        let paired = Paired {
            user: &user,
            card: &card,
            path: &path,
            is_serving,
        };
        paired.tell(json);
        Ok(())
    }

    /// Where the other person comes: to the address that is set, or to a relay, or else to this
    /// machine.
    async fn meeting(&self, root: &Root, user: &User, is_set: bool) -> Result<Meeting, Error> {
        let relays = match self.listen.is_some() || is_set {
            true => Vec::new(),
            false => user.relays()?,
        };
        let mut said = None;
        for relay in &relays {
            match relay_slot::open(user, relay).await {
                Ok((slot, address)) => {
                    let listening = question::addresses(root).await?;
                    return Ok(Meeting {
                        slot,
                        relay: Some(address),
                        is_serving: listening.is_some(),
                        listening: listening.unwrap_or_default(),
                    });
                }
                Err(error) => said = Some(error),
            }
        }
        if let Some(error) = said {
            output::aside(format_args!("no relay keeps the code: {error}"));
        }
        let at_server = match self.listen.is_some() {
            true => None,
            false => slot::open(root).await?,
        };
        match at_server {
            Some((slot, listening)) => Ok(Meeting {
                slot,
                relay: None,
                listening,
                is_serving: true,
            }),
            None => self.own_meeting().await,
        }
    }

    /// A listener that is there for this code alone.
    async fn own_meeting(&self) -> Result<Meeting, Error> {
        let any = |port| {
            Address::Tcp(Place {
                host: Ipv4Addr::UNSPECIFIED.to_string(),
                port,
            })
        };
        let listening = Listening::plain();
        let listener = match &self.listen {
            Some(address) => transport::listen(address, &listening).await?,
            None => match transport::listen(&any(PORT), &listening).await {
                Ok(listener) => listener,
                Err(_) => transport::listen(&any(0), &listening).await?,
            },
        };
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Failed, e.to_string());
        let listening = vec![listener.address().map_err(|e| failed(&e))?];
        let slot = host::open(listener).map_err(|e| failed(&e))?;
        Ok(Meeting {
            slot: slot.ok_or_else(|| failed(&"no code can be made"))?,
            relay: None,
            listening,
            is_serving: false,
        })
    }
}

/// Where others reach a server: what is set, or what its listeners' addresses say, and the relays
/// that the user has joined.
pub(super) fn own_addresses(
    set: Option<&Addresses>,
    user: &User,
    listening: &[Address],
    with_local: bool,
) -> Result<Option<Addresses>, Error> {
    let at_relays = user.addresses_at_relays()?;
    let mut known: Vec<_> = match set {
        Some(set) => set.iter().cloned().collect(),
        None => {
            let with_local = with_local && at_relays.is_empty();
            let known = listening.iter().map(reachable);
            known
                .filter(|address| with_local || !address.is_local())
                .filter(|address| !is_unspecified(address))
                .collect()
        }
    };
    known.extend(at_relays);
    known.truncate(transport::MAX_ADDRESSES);
    Ok(Addresses::new(known).ok())
}

/// The address of a code at this machine: one that is set, or that of a listener; of TCP, if there is
/// one.
pub(super) fn direct(set: Option<&Addresses>, listening: &[Address]) -> Option<Address> {
    let of = |all: Vec<Address>| {
        let usable =
            |address: &Address| !matches!(address, Address::Relay(..)) && !is_unspecified(address);
        let all = Addresses::new(all.into_iter().filter(usable)).ok()?;
        all.plain().or(all.iter().next()).cloned()
    };
    match set {
        Some(set) => of(set.iter().cloned().collect()),
        None => of(listening.iter().map(reachable).collect()),
    }
}

/// The way to the other person.
struct Meeting {
    slot: RemoteSlot,
    /// Where the relay is, if the slot is at one.
    relay: Option<Address>,
    /// Where a server of the root listens, or else what waits for the other person.
    listening: Vec<Address>,
    /// Whether that is a server.
    is_serving: bool,
}

/// What became of it.
struct Paired<'a> {
    user: &'a User,
    card: &'a Card,
    /// The folder where the other's files arrive.
    path: &'a Path,
    is_serving: bool,
}

impl Paired<'_> {
    fn tell(&self, json: bool) {
        let name = &self.card.name;
        if json {
            let fingerprint = self.card.key.fingerprint();
            let addresses = self.card.addresses.as_ref().map(ToString::to_string);
            let folder = self.card.folder.as_ref();
            output::object(&[
                ("status", "done".into()),
                ("user", self.user.name().as_str().into()),
                ("contact", name.as_str().into()),
                ("fingerprint", fingerprint.to_string().into()),
                ("digits", fingerprint.digits().into()),
                ("address", addresses.unwrap_or_default().into()),
                ("folder", folder.map_or("", Name::as_str).into()),
            ]);
            return;
        }
        match &self.card.addresses {
            Some(_) => output::line(format_args!(
                "Paired with {name}. Send a file: m2y send photo.jpg {name}"
            )),
            None => output::line(format_args!(
                "Paired with {name}, who has no server that you could send to yet"
            )),
        }
        let path = self.path.display();
        match self.is_serving {
            true => output::line(format_args!("Files from {name} arrive in {path}")),
            false => output::line(format_args!(
                "Files from {name} arrive in {path} while `m2y serve` runs"
            )),
        }
    }
}

/// Shows a code to its owner.
pub(super) fn show(code: &Code, json: bool) {
    let minutes = LIFE.as_secs() / 60;
    if json {
        output::object(&[
            ("status", "code".into()),
            ("code", code.to_string().into()),
            ("seconds", LIFE.as_secs().into()),
        ]);
        return;
    }
    output::line(format_args!(
        "Share this code with one person (valid for {minutes} minutes, one attempt):   {code}"
    ));
    let place = code.address.place();
    if code.address.is_local() {
        output::aside(format_args!(
            "Only this machine reaches {place}: for others, let `m2y serve` listen on 0.0.0.0:{PORT}"
        ));
    } else if is_private_host(&place.host) {
        output::aside(format_args!(
            "Only the network that this machine is in reaches {place}. For others, forward port {} of your router to it, and name the router's address with --address; or join a relay (m2y guide reach)",
            place.port
        ));
    }
}

fn is_unspecified(address: &Address) -> bool {
    let ip = address.place().host.parse::<IpAddr>();
    ip.is_ok_and(|ip| ip.is_unspecified())
}

/// Whether a host is an address of a local network.
pub(super) fn is_private_host(host: &str) -> bool {
    host.parse().is_ok_and(is_private)
}

/// Whether an address belongs to a local network (RFC 1918, RFC 4193, RFC 3927, RFC 6598).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// An address that others can use, for one that a server listens on.
fn reachable(address: &Address) -> Address {
    let place = address.place();
    let ip = place.host.parse::<IpAddr>();
    let Some(own) = ip
        .ok()
        .filter(IpAddr::is_unspecified)
        .and_then(|_| own_ip())
    else {
        return address.clone();
    };
    let place = Place {
        host: own.to_string(),
        port: place.port,
    };
    match address {
        Address::Tcp(_) => Address::Tcp(place),
        Address::Tls(_, pin) => Address::Tls(place, *pin),
        Address::Quic(_, pin) => Address::Quic(place, *pin),
        Address::Relay(_, name) => Address::Relay(place, name.clone()),
    }
}

/// The address of this machine from which packets to the world would go. None is sent: the address
/// is one that nobody has (RFC 5737).
fn own_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// Asks the person at the terminal for a name.
fn ask_name(root: &Path) -> Result<Name, Error> {
    if !stdin().is_terminal() {
        let sentence = format!(
            "m2y is not set up in {} yet: say who you are with --name NAME",
            root.display()
        );
        return Err(Error::new(ErrorCode::Usage, sentence));
    }
    let failed = |e: std::io::Error| Error::new(ErrorCode::Failed, format!("cannot ask: {e}"));
    eprint!("Your name, as others will see it (like roland-frei): ");
    stderr().flush().map_err(failed)?;
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(failed)?;
    user_name(line.trim())
}

/// The words that may come next in a code.
pub(super) fn words(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_str().unwrap_or_default();
    let words = code::completions(typed).into_iter();
    words.map(CompletionCandidate::new).collect()
}

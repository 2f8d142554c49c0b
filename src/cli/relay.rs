//! A relay, and joining one.

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use tokio::time::{Instant, timeout};

use super::{
    RootArg,
    completion::contacts,
    contact::{read_text, shown},
    init::make_user,
    output,
    pair::{direct, own_addresses, show, words},
    serve::Serve,
    user_arg::UserArg,
    user_name,
};
use crate::{
    client::{membership, relay_slot},
    control::{
        question::{self, Present},
        slot,
    },
    crypto::random,
    error::{Code as ErrorCode, Error},
    hooks::bundled,
    json,
    pairing::{
        code::{self, Code},
        joiner, owner,
        party::Party,
        slots::LIFE,
    },
    relay::letters,
    root::{Root, contact::Card, invitation::Invitation, name::Name, user::User},
    server,
    transport::{Address, Addresses, Direct},
    wire::session::Share,
};

/// How long a relay may take to hear that somebody leaves it.
const LAST: Duration = Duration::from_secs(5);

/// Let people meet who cannot reach each other
///
/// A relay is a server that both can reach. It carries what they say to each other, and can read
/// none of it. See `m2y guide reach`.
#[derive(Debug, Subcommand)]
pub enum Relay {
    Serve(RelayServe),
    Invite(Invite),
    Join(Join),
    Leave(Leave),
    Who(Who),
    Users(Users),
    Active(Active),
    Info(Info),
    Remove(Remove),
}

/// Run a relay
///
/// Creates the root, and the user whose contacts are the members, if they are missing. A server
/// that has users too may be a relay: `enabled = yes` under [relay] in m2y.ini.
#[derive(Debug, Args)]
pub struct RelayServe {
    #[command(flatten)]
    serve: Serve,
}

/// Let one person become a member of the relay, by a code
///
/// The relay must be running. The person joins with `m2y relay join CODE`. Where you are not there at the
/// same time, --document prints an invitation to be sent by mail; it is used with `m2y relay join FILE`.
#[derive(Debug, Args)]
pub struct Invite {
    #[command(flatten)]
    root: RootArg,
    /// The user name of the person
    #[arg(value_name = "NAME")]
    name: String,
    /// Where others reach the relay [default: address in m2y.ini, else found out]
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// Print an invitation instead of a code; it works once, within 14 days, for anyone who has it
    #[arg(long)]
    document: bool,
}

/// Join a relay: contacts reach your server there
///
/// `m2y serve` keeps a connection open to the relay; no port has to be open for that.
#[derive(Debug, Args)]
pub struct Join {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The code of `m2y relay invite`, or the file with its document (- for standard input)
    #[arg(value_name = "CODE|FILE", add = ArgValueCompleter::new(words))]
    code: String,
}

/// Leave a relay
#[derive(Debug, Args)]
pub struct Leave {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The relay, as `m2y contact list` names it
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: String,
}

/// List the members of a relay that you have joined who want to be found
///
/// To be found yourself, write `listed = yes` under [presence] in m2y.ini.
#[derive(Debug, Args)]
pub struct Who {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The relay, as `m2y contact list` names it [default: the only one]
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: Option<String>,
}

/// List the members of the relay
#[derive(Debug, Args)]
pub struct Users {
    #[command(flatten)]
    root: RootArg,
}

/// List the members that are connected to the relay now
#[derive(Debug, Args)]
pub struct Active {
    #[command(flatten)]
    root: RootArg,
}

/// Show a member of the relay: fingerprint, and whether it is connected
#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    root: RootArg,
    /// The member
    #[arg(value_name = "NAME")]
    name: String,
}

/// Remove a member from the relay; a connection ends within half a minute
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    root: RootArg,
    /// The member
    #[arg(value_name = "NAME")]
    name: String,
}

impl Relay {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::Serve(serve) => serve.run(json).await,
            Self::Invite(invite) => invite.run(json).await,
            Self::Join(join) => join.run(json).await,
            Self::Leave(leave) => leave.run(json).await,
            Self::Who(who) => who.run(json).await,
            Self::Users(users) => users.run(json),
            Self::Active(active) => active.run(json).await,
            Self::Info(info) => info.run(json).await,
            Self::Remove(remove) => remove.run(json),
        }
    }

    /// The server, if that is the command.
    pub(super) fn serve(&self) -> Option<&Serve> {
        match self {
            Self::Serve(relay) => Some(&relay.serve),
            _ => None,
        }
    }
}

/// The user of a root whose contacts are the members of its relay.
fn user_of(root: &Root) -> Result<User, Error> {
    let name = server::relay_user(&root.settings()?)?;
    root.user(&name).map_err(|_| {
        let sentence = format!(
            "{} has no relay: start one with `m2y relay serve`",
            root.path().display()
        );
        Error::new(ErrorCode::NotFound, sentence)
    })
}

/// A member of the relay.
fn member(user: &User, name: &str) -> Result<Name, Error> {
    let name = user_name(name)?;
    user.contact(&name).map(|_| name.clone()).map_err(|_| {
        Error::new(
            ErrorCode::NotFound,
            format!("{name} is no member of this relay"),
        )
    })
}

impl RelayServe {
    async fn run(self, json: bool) -> Result<(), Error> {
        let path = self.serve.path();
        let (root, _) = Root::init(&path, bundled::ALL)?;
        let name = server::relay_user(&root.settings()?)?;
        let (_, is_new) = make_user(&root, &name)?;
        if is_new {
            output::aside(format_args!("made a key for the user {name}"));
        }
        let enable = |_: &Root, settings: &mut crate::root::settings::Settings| {
            settings.relay.enabled = true;
            Ok(())
        };
        self.serve.run_with(json, enable).await
    }
}

impl Invite {
    async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let (user, name) = (user_of(&root)?, user_name(&self.name)?);
        if root.user(&name).is_ok() {
            let sentence = format!("{name} is a user of this root, and needs no relay here");
            return Err(Error::new(ErrorCode::Usage, sentence));
        }
        if self.document {
            return self.print(&root, &user, name).await;
        }
        let until = Instant::now() + LIFE;
        present(&root).await?;
        let (mut slot, listening) = slot::open(&root).await?.ok_or_else(not_running)?;
        let settings = root.settings()?;
        let set = self.address.as_ref().or(settings.addresses.as_ref());
        let is_local = listening.iter().all(Address::is_local);
        let own = own_addresses(set, &user, &listening, is_local)?;
        let address = direct(set, &listening).ok_or_else(|| {
            let sentence = "the relay has no address that others could reach: name one with --address HOST:PORT";
            Error::new(ErrorCode::Usage, sentence)
        })?;
        let password = code::draw().map_err(|e| Error::new(ErrorCode::Failed, e.to_string()))?;
        let code = Code {
            slot: slot.number,
            password,
            address,
        };
        show(&code, json);
        let party = Party::new(user, None, own)?.expecting(name.clone());
        let attempts = &mut slot.attempts;
        let attended = owner::attend(attempts, until, &code.password, &party, |_| {}).await;
        slot.close().await;
        let card = attended?;
        if json {
            let fingerprint = card.key.fingerprint().to_string();
            output::object(&[
                ("status", "done".into()),
                ("member", name.as_str().into()),
                ("fingerprint", fingerprint.into()),
            ]);
        } else {
            output::line(format_args!("{name} is a member of this relay"));
        }
        Ok(())
    }
}

impl Invite {
    /// Prints an invitation as a document.
    async fn print(&self, root: &Root, user: &User, name: Name) -> Result<(), Error> {
        let settings = root.settings()?;
        if !settings.relay.letters {
            let sentence =
                "m2y.ini says letters = no under [relay]: without letters there are only codes";
            return Err(Error::new(ErrorCode::Usage, sentence));
        }
        let set = self.address.clone().or(settings.addresses);
        let set = set.ok_or_else(|| {
            let sentence =
                "name where the relay is reached, with --address ADDRESS or address in m2y.ini";
            Error::new(ErrorCode::Usage, sentence)
        })?;
        let token = random()?;
        let invitation = Invitation {
            relay: user.card(Some(set), None)?,
            key: Share::from_secret(&*root.relay_key()?).public,
            name: name.clone(),
            token,
        };
        letters::invite(root, &token, &name).await?;
        output::text(&json::pretty(&invitation.to_document()?));
        Ok(())
    }
}

impl Join {
    /// Becomes a member by a code; returns the relay and an address of it.
    async fn by_code(user: &User, code: &Code) -> Result<(Card, Address), Error> {
        let settings = user.root().settings()?;
        let party = Party::new(user.clone(), None, None)?;
        let dialer = Direct::new(settings.quic_gso);
        let card = joiner::join(code, &dialer, &party).await?;
        Ok((card, code.address.clone()))
    }

    /// The same by a document.
    async fn by_document(user: &User, path: &Path) -> Result<(Card, Address), Error> {
        let text = read_text(path)?;
        let invitation = Invitation::parse(&shown(path), &text)?;
        let Invitation {
            relay,
            key,
            name,
            token,
        } = invitation;
        if name != *user.name() {
            let sentence = format!("the invitation is for {name}, not for {}", user.name());
            return Err(Error::new(ErrorCode::Refused, sentence));
        }
        let nowhere = || {
            let sentence = "the invitation does not say where the relay is";
            Error::new(ErrorCode::Failed, sentence)
        };
        let addresses = relay.addresses.clone().ok_or_else(nowhere)?;
        let address = addresses.iter().next().cloned().ok_or_else(nowhere)?;
        user.check_contact(&relay.name, &relay.key, false)?;
        membership::join(user, &addresses, &key, token).await?;
        user.add_contact(&relay.name, &relay.key, false)?;
        user.set_addresses(&relay.name, &addresses)?;
        Ok((relay, address))
    }

    async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let (card, at) = match self.code.parse::<Code>() {
            Ok(code) => Self::by_code(&user, &code).await?,
            // A word with an @ is a code that was mistyped.
            Err(error) if self.code.contains('@') && !Path::new(&self.code).exists() => {
                return Err(Error::new(ErrorCode::Usage, error.to_string()));
            }
            Err(_) => Self::by_document(&user, Path::new(&self.code)).await?,
        };
        let relay = &card.name;
        let plain = card.addresses.as_ref().and_then(Addresses::plain);
        let place = plain.unwrap_or(&at).place().clone();
        if user.addresses_of(relay)?.is_none() {
            user.set_addresses(relay, &at.into())?;
        }
        // It may have been the code of somebody who is no relay.
        let (slot, _) = relay_slot::open(&user, relay).await?;
        slot.close().await;
        user.set_relay(relay, true)?;
        // A relay without letters is one too.
        let _ = membership::who(&user, relay).await;
        let address = Address::Relay(place, user.name().to_string()).to_string();
        if json {
            output::object(&[
                ("status", "done".into()),
                ("user", user.name().as_str().into()),
                ("relay", relay.as_str().into()),
                ("address", address.into()),
            ]);
        } else {
            output::line(format_args!(
                "{} has joined {relay}: while `m2y serve` runs, contacts reach it at\n  {address}",
                user.name()
            ));
        }
        Ok(())
    }
}

impl Leave {
    async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user_name(&self.name)?;
        if !user.relays()?.contains(&name) {
            let sentence = format!("{} has not joined {name}", user.name());
            return Err(Error::new(ErrorCode::NotFound, sentence));
        }
        user.set_relay(&name, false)?;
        user.set_relay_key(&name, None)?;
        // A relay that is away keeps what it has until it removes the member.
        let left = timeout(LAST, membership::leave(&user, &name)).await;
        if !matches!(left, Ok(Ok(()))) {
            output::aside(format_args!(
                "{name} does not answer: letters that wait there stay until they expire"
            ));
        }
        if json {
            output::object(&[("status", "done".into()), ("relay", name.as_str().into())]);
        } else {
            output::line(format_args!("{} has left {name}", user.name()));
        }
        Ok(())
    }
}

impl Who {
    async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let relays = user.relays()?;
        let name = match (&self.name, relays.as_slice()) {
            (Some(name), _) => user_name(name)?,
            (None, [only]) => only.clone(),
            (None, []) => {
                let sentence = format!("{} has joined no relay", user.name());
                return Err(Error::new(ErrorCode::NotFound, sentence));
            }
            (None, _) => {
                let sentence = "there are several relays: name one";
                return Err(Error::new(ErrorCode::Usage, sentence));
            }
        };
        let found = membership::who(&user, &name).await?;
        if found.is_empty() && !json {
            output::line(format_args!("nobody at {name} wants to be found"));
        }
        for member in found {
            match json {
                true => output::object(&[("member", member.as_str().into())]),
                false => output::line(&member),
            }
        }
        Ok(())
    }
}

fn not_running() -> Error {
    Error::new(
        ErrorCode::Later,
        "the relay is not running: start it with `m2y relay serve`",
    )
}

/// Who attends at the relay of a root.
async fn present(root: &Root) -> Result<Present, Error> {
    question::relay(root).await?.ok_or_else(not_running)
}

impl Users {
    fn run(self, json: bool) -> Result<(), Error> {
        let user = user_of(&self.root.open()?)?;
        let members = user.contacts()?;
        if members.is_empty() && !json {
            output::line("the relay has no members: invite one with `m2y relay invite NAME`");
        }
        for member in members {
            let member = member?;
            let fingerprint = member.key.fingerprint();
            if json {
                output::object(&[
                    ("member", member.name.as_str().into()),
                    ("fingerprint", fingerprint.to_string().into()),
                ]);
            } else {
                output::line(format_args!(
                    "{}  SHA256:{}…",
                    member.name,
                    fingerprint.short()
                ));
            }
        }
        Ok(())
    }
}

impl Active {
    async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let user = user_of(&root)?;
        let present = present(&root).await?;
        for member in user.contacts()? {
            let name = member?.name;
            let Some(seconds) = present.seconds_of(&name) else {
                continue;
            };
            if json {
                output::object(&[
                    ("member", name.as_str().into()),
                    ("seconds", seconds.into()),
                ]);
            } else {
                output::line(format_args!("{name}  for {seconds} s"));
            }
        }
        if !json {
            let (members, pairs) = (present.members.len(), present.pairs);
            let word = if pairs == 1 { "pair" } else { "pairs" };
            output::line(format_args!("{members} connected, {pairs} {word} joined"));
        }
        Ok(())
    }
}

impl Info {
    async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let user = user_of(&root)?;
        let name = member(&user, &self.name)?;
        let fingerprint = user.contact(&name)?.key.fingerprint();
        // A relay that does not run knows nobody who is there.
        let present = present(&root).await.ok();
        let seconds = present.and_then(|present| present.seconds_of(&name));
        if json {
            output::object(&[
                ("member", name.as_str().into()),
                ("fingerprint", fingerprint.to_string().into()),
                ("digits", fingerprint.digits().into()),
                ("seconds", seconds.into()),
            ]);
            return Ok(());
        }
        output::line(&name);
        output::line(format_args!("  fingerprint {fingerprint}"));
        output::line(format_args!("  read aloud  {}", fingerprint.digits()));
        match seconds {
            Some(seconds) => output::line(format_args!("  connected   for {seconds} s")),
            None => output::line("  connected   no"),
        }
        Ok(())
    }
}

impl Remove {
    fn run(self, json: bool) -> Result<(), Error> {
        let user = user_of(&self.root.open()?)?;
        let name = member(&user, &self.name)?;
        user.remove_contact(&name)?;
        if json {
            output::object(&[("status", "done".into()), ("member", name.as_str().into())]);
        } else {
            output::line(format_args!("{name} is no member of this relay any more"));
        }
        Ok(())
    }
}

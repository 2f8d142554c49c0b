use std::time::{Duration, Instant, UNIX_EPOCH};

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    RootArg, completion::contacts, hook, output, pair::is_private_host, store, user_arg::UserArg,
    user_name,
};
use crate::{
    client::{self, Route, presence, relay_slot},
    clock,
    control::question,
    error::{Code, Error},
    hooks::check::Checker,
    root::{Root, settings::Settings, user::User},
    transport::{self, Address, Dialer, Direct, Listening},
};

/// How far a clock may be off before it is worth a word, and before others refuse sessions.
const ODD: Duration = Duration::from_secs(600);
const WRONG: Duration = Duration::from_secs(86_400);

/// Find out what is wrong: keys, clock, addresses, ports, relays, stores, hooks
///
/// Looks at everything that m2y needs, and says what to do about each problem. With a contact,
/// also tries each of the contact's addresses and opens a session. Exit code 1 if there is a
/// problem.
#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// A contact whose server is tried too
    #[arg(value_name = "CONTACT", add = ArgValueCompleter::new(contacts))]
    contact: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Fine,
    /// Worth a thought.
    Note,
    Problem,
}

/// What was found so far.
struct Findings {
    json: bool,
    problems: usize,
}

impl Findings {
    /// Tells a finding: what it is about, how it is, and what to do.
    fn tell(&mut self, state: State, what: &str, text: &str, advice: &str) {
        self.problems += usize::from(state == State::Problem);
        let word = match state {
            State::Fine => "ok",
            State::Note => "note",
            State::Problem => "problem",
        };
        if self.json {
            output::object(&[
                ("status", word.into()),
                ("check", what.into()),
                ("text", text.into()),
                ("advice", advice.into()),
            ]);
            return;
        }
        output::line(format_args!("{word:8} {what:9} {text}"));
        if !advice.is_empty() {
            output::line(format_args!("{:18} {advice}", ""));
        }
    }

    fn fine(&mut self, what: &str, text: &str) {
        self.tell(State::Fine, what, text, "");
    }

    /// An error, whose sentence says what to do.
    fn error(&mut self, what: &str, error: &Error) {
        self.tell(State::Problem, what, &error.sentence, "");
    }
}

impl Doctor {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let mut findings = Findings { json, problems: 0 };
        let settings = match root.settings() {
            Ok(settings) => {
                findings.fine("settings", "m2y.ini");
                settings
            }
            Err(error) => {
                findings.error("settings", &error.into());
                Settings::default()
            }
        };
        clock_of(&root, &mut findings);
        let users = root.users()?;
        if users.is_empty() {
            findings.tell(
                State::Problem,
                "keys",
                "the root has no user",
                "create one with `m2y init --user NAME`, or run `m2y pair`",
            );
        }
        for user in &users {
            keys(user, &mut findings);
        }
        server(&root, &settings, &mut findings).await;
        for user in &users {
            relays(user, &mut findings).await;
        }
        stores(&root, &settings, &mut findings).await;
        hooks(&root, &settings, &mut findings);
        if let Some(contact) = &self.contact {
            let user = self.user.of(&root)?;
            self::contact(&user, contact, &mut findings).await?;
        }
        let problems = findings.problems;
        let sentence = match problems {
            0 => "no problems".to_owned(),
            1 => "1 problem found".to_owned(),
            n => format!("{n} problems found"),
        };
        if json {
            output::object(&[("status", "summary".into()), ("problems", problems.into())]);
        }
        match problems {
            0 if json => Ok(()),
            0 => {
                output::line(sentence);
                Ok(())
            }
            _ => Err(Error::new(Code::Failed, sentence)),
        }
    }
}

/// Whether the clock is later than what m2y wrote.
fn clock_of(root: &Root, findings: &mut Findings) {
    let written = ["journal.sqlite", "m2y.ini"]
        .into_iter()
        .filter_map(|file| {
            let modified = std::fs::metadata(root.path().join(file)).ok()?.modified();
            modified.ok()?.duration_since(UNIX_EPOCH).ok()
        });
    let now = Duration::from_millis(clock::millis());
    match written.max().filter(|last| *last > now + ODD) {
        Some(_) => findings.tell(
            State::Problem,
            "clock",
            "this machine's clock is behind files that m2y has written",
            "set it (`timedatectl set-ntp true`): others refuse sessions from a clock that is a day off",
        ),
        None => findings.fine("clock", &output::moment(clock::millis())),
    }
}

fn keys(user: &User, findings: &mut Findings) {
    let name = user.name();
    match user.own_key() {
        Ok(key) => {
            let bits = key.size() * 8;
            let text = format!("{name}: RSA, {bits} bits, {}", key.fingerprint());
            findings.fine("keys", &text);
        }
        Err(error) => findings.error("keys", &error.into()),
    }
}

async fn server(root: &Root, settings: &Settings, findings: &mut Findings) {
    let addresses = match question::addresses(root).await {
        Ok(Some(addresses)) => addresses,
        Ok(None) => return ports(settings, findings).await,
        Err(error) => return findings.error("server", &error),
    };
    for address in &addresses {
        let begun = Instant::now();
        match Direct::new(settings.quic_gso).dial(address).await {
            Ok(_) => {
                let took = begun.elapsed().as_secs_f64() * 1e3;
                findings.fine("server", &format!("answers at {address} ({took:.0} ms)"));
            }
            Err(error) => findings.error("server", &error.into()),
        }
    }
    if addresses.iter().all(Address::is_local) {
        findings.tell(
            State::Note,
            "server",
            "only this machine can connect to it",
            "let others in with `m2y serve --listen 0.0.0.0:5000`, or join a relay",
        );
    }
    let set = settings
        .addresses
        .iter()
        .flat_map(transport::Addresses::iter);
    for address in set.filter(|address| is_private_host(&address.place().host)) {
        findings.tell(
            State::Note,
            "server",
            &format!("{address}, which m2y.ini tells others, belongs to a local network"),
            "name the address of your router, and forward the port, or join a relay",
        );
    }
}

/// Whether a server could listen where it should.
async fn ports(settings: &Settings, findings: &mut Findings) {
    findings.tell(
        State::Note,
        "server",
        "no server is running for this root",
        "to receive files, start `m2y serve`",
    );
    for wanted in &settings.listen {
        let Ok(address) = wanted.parse::<Address>() else {
            let error = Error::new(Code::Usage, format!("cannot listen on {wanted}"));
            findings.error("ports", &error);
            continue;
        };
        // A certificate is made when the server starts.
        if !matches!(address, Address::Tcp(_)) {
            continue;
        }
        match transport::listen(&address, &Listening::plain()).await {
            Ok(_) => findings.fine("ports", &format!("{address} is free")),
            Err(error) => findings.tell(
                State::Problem,
                "ports",
                &error.to_string(),
                "stop what listens there, or choose a different port under [server] in m2y.ini",
            ),
        }
    }
}

async fn relays(user: &User, findings: &mut Findings) {
    let relays = match user.relays() {
        Ok(relays) => relays,
        Err(error) => return findings.error("relay", &error.into()),
    };
    for relay in relays {
        let begun = Instant::now();
        match relay_slot::open(user, &relay).await {
            Ok((slot, _)) => {
                let took = begun.elapsed().as_secs_f64() * 1e3;
                let text = format!("{relay} knows {} ({took:.0} ms)", user.name());
                findings.fine("relay", &text);
                slot.close().await;
            }
            Err(error) => findings.error("relay", &error),
        }
    }
}

async fn stores(root: &Root, settings: &Settings, findings: &mut Findings) {
    for (name, place) in &settings.stores {
        match store::works(root, place).await {
            None => {}
            Some(Ok(())) => findings.fine("store", name),
            Some(Err(error)) => findings.error("store", &error.within(format!("store {name}"))),
        }
    }
}

fn hooks(root: &Root, settings: &Settings, findings: &mut Findings) {
    let mut checker = Checker::default();
    checker.shared(root);
    match root.folders() {
        Ok(folders) => {
            for folder in folders {
                match folder {
                    Ok(folder) => checker.folder(root, &folder, &settings.executables),
                    Err(error) => findings.error("hooks", &error.into()),
                }
            }
        }
        Err(error) => findings.error("hooks", &error.into()),
    }
    match hook::errors(&checker) {
        0 => {
            let files = output::files(checker.files as u64);
            findings.fine("hooks", &format!("{files} checked"));
        }
        n => findings.tell(
            State::Problem,
            "hooks",
            &format!("{n} mistakes in configurations and scripts"),
            "`m2y hook check` shows them",
        ),
    }
}

async fn contact(user: &User, name: &str, findings: &mut Findings) -> Result<(), Error> {
    let name = user_name(name)?;
    let route = Route::to(user, name.as_str(), None)?;
    let fingerprint = user.contact(&name)?.key.fingerprint();
    findings.fine("contact", &format!("{name} has the key {fingerprint}"));
    let settings = user.root().settings()?;
    let dialer = Direct::new(settings.quic_gso);
    let mut answered = false;
    for address in route.addresses().iter() {
        let begun = Instant::now();
        match dialer.dial(address).await {
            Ok(_) => {
                answered = true;
                let took = begun.elapsed().as_secs_f64() * 1e3;
                findings.fine("address", &format!("{address} answers ({took:.0} ms)"));
            }
            Err(error) => {
                let took = begun.elapsed().as_secs_f64();
                let text = format!("{} ({took:.1} s)", Error::from(error).sentence);
                findings.tell(State::Note, "address", &text, "");
            }
        }
    }
    match presence::letter_box(user, &name).await {
        Ok(Some(relay)) => {
            findings.fine("letters", &format!("{name} takes letters at {relay}"));
        }
        Ok(None) => {}
        Err(error) => findings.error("letters", &error),
    }
    if !answered {
        findings.tell(
            State::Problem,
            "address",
            &format!("no address of {name} answers"),
            "ask whether the server is running, and for its present address",
        );
        return Ok(());
    }
    match client::greet(&route).await {
        Ok(ahead) => {
            findings.fine(
                "session",
                &format!("{name} answers, and knows {}", user.name()),
            );
            let off = Duration::from_millis(ahead.unsigned_abs());
            if off > ODD {
                let state = if off > WRONG / 2 {
                    State::Problem
                } else {
                    State::Note
                };
                let side = if ahead > 0 { "ahead of" } else { "behind" };
                let minutes = off.as_secs() / 60;
                findings.tell(
                    state,
                    "clock",
                    &format!("the clock of {name} is {minutes} minutes {side} ours"),
                    "set the one that is wrong: sessions are refused from a clock that is a day off",
                );
            }
        }
        Err(error) => findings.error("session", &error),
    }
    Ok(())
}

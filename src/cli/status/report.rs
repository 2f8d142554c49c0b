//! What a server does, as lines for people.

use super::rows::{Part, age, counted, list, number, shown, sum, text, words};
use crate::{
    cli::output::{bytes, table},
    json::{Map, Value},
};

/// Lines that are always there, and lists.
pub(super) struct Report {
    head: Vec<String>,
    parts: Vec<Part>,
}

impl Report {
    /// The answer of a server; everything in it is made harmless.
    pub(super) fn of(said: Map<String, Value>) -> Self {
        let all = Value::Object(said);
        Self {
            head: head(&all),
            parts: [users(&all), present(&all), transfers(&all)].into(),
        }
    }

    /// The lines; at most so many, if there is no room for more. Lists are cut, each in turn.
    pub(super) fn lines(&self, most: Option<usize>) -> Vec<String> {
        let mut lines = self.head.clone();
        let parts: Vec<_> = self.parts.iter().filter(|part| !part.is_empty()).collect();
        let wanted: Vec<_> = parts.iter().map(|part| part.len()).collect();
        // Each has a heading and an empty line before it.
        let taken = lines.len() + 2 * parts.len();
        let room = most.map_or(usize::MAX, |most| most.saturating_sub(taken));
        for (part, rows) in parts.iter().zip(shared(room, &wanted)) {
            lines.push(String::new());
            lines.extend(part.lines(rows));
        }
        if let Some(most) = most {
            lines.truncate(most);
        }
        lines
    }
}

/// How many rows each gets of so many: as many as it wants, or as many as the others.
fn shared(mut room: usize, wanted: &[usize]) -> Vec<usize> {
    let mut given = vec![0; wanted.len()];
    loop {
        let mut gave = false;
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if *given < *wanted && room > 0 {
                (*given, room, gave) = (*given + 1, room - 1, true);
            }
        }
        if !gave {
            return given;
        }
    }
}

fn head(all: &Value) -> Vec<String> {
    let process = all.get("process").unwrap_or(&Value::Null);
    let of = |field| number(process, field);
    let (version, root) = (text(all, "version"), text(all, "root"));
    let addresses = list(all, "addresses");
    let addresses: Vec<_> = addresses.iter().filter_map(Value::as_str).collect();
    let mut rows = vec![
        [
            format!("m2y {version}"),
            format!("{root}, up {}", age(number(all, "uptime"))),
        ],
        ["listening".to_owned(), shown(&addresses.join(", "), 200)],
        [
            "process".to_owned(),
            format!(
                "{} on {}, {}, {}",
                counted(of("tasks"), "task"),
                counted(of("workers"), "worker"),
                counted(of("threads"), "thread"),
                bytes(of("memory")),
            ),
        ],
        [
            "traffic".to_owned(),
            format!(
                "{}, {} received, {} sent",
                counted(number(all, "connections"), "connection"),
                bytes(number(all, "received_bytes")),
                bytes(number(all, "sent_bytes")),
            ),
        ],
    ];
    let events = all.get("events").unwrap_or(&Value::Null);
    let dead = number(events, "dead");
    let advice = if dead > 0 { ": see m2y events" } else { "" };
    rows.push([
        "events".to_owned(),
        format!("{} waiting, {dead} dead{advice}", number(events, "waiting")),
    ]);
    let letters = all.get("letters").unwrap_or(&Value::Null);
    rows.push([
        "letters".to_owned(),
        format!("{} left at relays", number(letters, "left")),
    ]);
    if let Some(relay) = all.get("relay").filter(|relay| relay.is_object()) {
        rows.push([
            "relay".to_owned(),
            format!(
                "{} of {} here, {}, {} held ({})",
                list(relay, "present").len(),
                counted(number(relay, "members"), "member"),
                counted(number(relay, "pairs"), "pair"),
                counted(number(relay, "letters"), "letter"),
                bytes(number(relay, "letter_bytes")),
            ),
        ]);
    }
    rows.extend(list(all, "stores").iter().map(store));
    table(&rows, &[])
}

fn store(store: &Value) -> [String; 2] {
    let members = list(store, "members");
    let answers = |member: &&Value| member.get("answers") == Some(&Value::Bool(true));
    let silent: Vec<_> = members
        .iter()
        .filter(|member| !answers(member))
        .map(|member| text(member, "name"))
        .collect();
    let silent = match silent.is_empty() {
        true => String::new(),
        false => format!(" ({} silent)", silent.join(", ")),
    };
    let here = members.iter().filter(answers).count();
    let health = format!(
        "{here} of {} here{silent}, {} degraded, {} lost",
        counted(members.len() as u64, "member"),
        number(store, "degraded"),
        number(store, "lost"),
    );
    [format!("store {}", text(store, "store")), health]
}

fn users(all: &Value) -> Part {
    let rows: Vec<_> = list(all, "users")
        .iter()
        .map(|user| {
            let folders = words(list(user, "folders"));
            [
                text(user, "user"),
                counted(number(user, "contacts"), "contact"),
                match folders.is_empty() {
                    true => "no folders".to_owned(),
                    false => folders,
                },
            ]
        })
        .collect();
    Part::new("users".to_owned(), table(&rows, &[]))
}

/// Who is there: at this server, at this relay, and our users at other relays.
fn present(all: &Value) -> Part {
    let sessions = list(all, "sessions").iter().map(|session| {
        [
            text(session, "contact"),
            format!("with {}", text(session, "user")),
            text(session, "address"),
            age(number(session, "seconds")),
        ]
    });
    let relay = all.get("relay").unwrap_or(&Value::Null);
    let members = list(relay, "present").iter().map(|member| {
        let here = "at this relay".to_owned();
        let seconds = number(member, "seconds");
        [text(member, "name"), here, String::new(), age(seconds)]
    });
    let places = list(all, "attending").iter().map(|place| {
        [
            text(place, "user"),
            format!("at the relay {}", text(place, "relay")),
            String::new(),
            age(number(place, "seconds")),
        ]
    });
    let rows: Vec<_> = sessions.chain(members).chain(places).collect();
    Part::new("there".to_owned(), table(&rows, &[3]))
}

fn transfers(all: &Value) -> Part {
    let transfers = list(all, "transfers");
    let rows: Vec<_> = transfers.iter().map(transfer).collect();
    let rate = |direction: &str| {
        let some = transfers
            .iter()
            .filter(|one| text(one, "direction") == direction);
        bytes(sum(some, "rate"))
    };
    let waiting = transfers
        .iter()
        .filter(|one| one.get("hook").is_some_and(Value::is_string))
        .count();
    let heading = format!(
        "transfers: {}, {}/s in, {}/s out, {waiting} waiting for hooks",
        transfers.len(),
        rate("in"),
        rate("out"),
    );
    Part::new(heading, table(&rows, &[1, 2, 3]))
}

fn transfer(one: &Value) -> [String; 5] {
    let (moved, size) = (
        number(one, "bytes"),
        one.get("size").and_then(Value::as_u64),
    );
    let percent = size.map(|size| match size {
        0 => 100,
        size => u128::from(moved.min(size)) * 100 / u128::from(size),
    });
    let hook = one.get("hook").and_then(Value::as_str);
    let state = match (hook, text(one, "stage").as_str()) {
        (Some(hook), _) => format!("[{}]", shown(hook, 20)),
        (None, "moving") => format!("{}/s", bytes(number(one, "rate"))),
        (None, stage) => stage.to_owned(),
    };
    let place: Vec<_> = [text(one, "folder"), text(one, "name")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let (user, contact) = (text(one, "user"), text(one, "contact"));
    let way = match text(one, "direction").as_str() {
        "in" => format!("{contact} > {user}"),
        _ => format!("{user} > {contact}"),
    };
    [
        way,
        percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
        match size {
            Some(size) => format!("{} of {}", bytes(moved), bytes(size)),
            None => bytes(moved),
        },
        state,
        place.join("/"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_among_lists_that_want_them() {
        assert_eq!(shared(10, &[2, 3, 1]), [2, 3, 1]);
        assert_eq!(shared(10, &[20, 3, 20]), [4, 3, 3]);
        assert_eq!(shared(0, &[20, 3]), [0, 0]);
    }
}

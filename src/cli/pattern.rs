//! Patterns for names on a contact's server: `*`, `?` and `[ab]`, component by component.
//!
//! In a pattern, a special character that stands for itself is in brackets: `[*]`.

use glob::{MatchOptions, Pattern};

use super::{ls, remote::RemotePath};
use crate::{
    client::peer::Peer,
    error::{Code, Error, printable},
    wire::request::Entry,
};

/// The most names that one pattern may match.
const MATCHES: usize = 10_000;

/// The special characters, and how each is written to stand for itself.
pub const LITERAL: [(char, &str); 3] = [('*', "[*]"), ('?', "[?]"), ('[', "[[]")];

/// Whether a word can match several names.
pub fn is_pattern(word: &str) -> bool {
    let plain = LITERAL.iter().fold(word.to_owned(), |word, (_, written)| {
        word.replace(written, "")
    });
    plain.contains(['*', '?'])
        || plain
            .split_once('[')
            .is_some_and(|(_, rest)| rest.contains(']'))
}

/// The text that a word stands for.
pub fn literal(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let written = LITERAL
            .iter()
            .find(|(_, written)| rest.starts_with(written));
        let (c, len) = written.map_or((c, c.len_utf8()), |(c, written)| (*c, written.len()));
        text.push(c);
        rest = rest.get(len..).unwrap_or_default();
    }
    text
}

/// Parses a pattern for one name.
pub fn pattern(word: &str) -> Result<Pattern, Error> {
    Pattern::new(word).map_err(|e| {
        let sentence = format!("the pattern {:?} cannot be read: {}", literal(word), e.msg);
        Error::new(Code::Usage, sentence)
    })
}

/// Whether a name matches a pattern.
pub fn matches(pattern: &Pattern, name: &str) -> bool {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    pattern.matches_with(name, options)
}

/// The error that a pattern matches nothing.
pub fn no_match(pattern: &str) -> Error {
    let sentence = format!("nothing matches {}", printable(pattern, 300));
    Error::new(Code::NotFound, sentence)
}

/// The paths that the components of a pattern match, sorted; hidden names only if the pattern
/// begins with a dot too. Fails if there are none.
pub async fn matching(peer: &Peer, components: &[String]) -> Result<Vec<(String, Entry)>, Error> {
    let mut found = vec![(String::new(), None)];
    for component in components {
        let mut next = Vec::new();
        for (above, entry) in found {
            if entry.is_some_and(|entry: Entry| !entry.is_dir) {
                continue;
            }
            let below = |name: &str| match above.as_str() {
                "" => name.to_owned(),
                above => format!("{above}/{name}"),
            };
            if !is_pattern(component) {
                next.push((below(&literal(component)), None));
                continue;
            }
            let pattern = pattern(component)?;
            let shown = ls::sorted(peer.list(&above, false)?, |entry| {
                if matches(&pattern, &entry.path) {
                    next.push((below(&entry.path), Some(entry)));
                }
                match next.len() > MATCHES {
                    true => Err(Error::new(
                        Code::Usage,
                        "the pattern matches more than 10,000 names",
                    )),
                    false => Ok(()),
                }
            });
            match shown.await {
                Err(error) if error.code == Code::NotFound => {}
                shown => shown?,
            }
        }
        found = next;
    }
    let mut sure = Vec::new();
    for (path, entry) in found {
        let entry = match entry {
            Some(entry) => entry,
            None => match peer.stat(&path).await {
                Ok(entry) => entry,
                Err(error) if error.code == Code::NotFound => continue,
                Err(error) => return Err(error),
            },
        };
        sure.push((path, entry));
    }
    match sure.is_empty() {
        true => Err(no_match(&literal(&components.join("/")))),
        false => Ok(sure),
    }
}

/// The same for a path as it is written on the command line.
pub async fn matching_path(peer: &Peer, path: &str) -> Result<Vec<(String, Entry)>, Error> {
    let components: Vec<String> = path.split('/').map(str::to_owned).collect();
    matching(peer, &components).await
}

/// The places that a pattern on the command line stands for: what it matches, unless there is a
/// file of exactly that name.
pub async fn expand(peer: &Peer, place: &RemotePath) -> Result<Vec<RemotePath>, Error> {
    match peer.stat(&place.path).await {
        Err(error) if error.code == Code::NotFound => {}
        Err(error) => return Err(error),
        Ok(_) => return Ok(vec![place.clone()]),
    }
    let at = |(path, _)| RemotePath {
        peer: place.peer.clone(),
        path,
    };
    let found = matching_path(peer, &place.path).await?;
    Ok(found.into_iter().map(at).collect())
}

/// The place that is not a pattern, with what stands for signs of patterns: `[*]` is `*`.
pub fn itself(place: &RemotePath) -> RemotePath {
    RemotePath {
        peer: place.peer.clone(),
        path: literal(&place.path),
    }
}

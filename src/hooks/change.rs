//! What is done outside the journal once an event has come to a decision, as plain data, and as the
//! journal stores it.

use super::{folder_files::Identity, transaction::files::Place};
use crate::{
    journal::Task,
    json::{Map, Value},
    root::name::Name,
    store::{Kind, Stat},
};

/// One change. What it knows of a file from before the decision tells, when it is made again,
/// whether it was made already, or somebody has put a different file there since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A directory is made.
    MakeDir(Place),
    /// A file is removed.
    Remove {
        /// The file.
        place: Place,
        /// What it was.
        was: Identity,
    },
    /// A file is renamed or moved. If something has that name already, both stay where they are,
    /// unless it is to be replaced.
    Move {
        /// Where it is.
        from: Place,
        /// Where it will be.
        to: Place,
        /// What it was.
        was: Identity,
        /// The file there that is replaced, if one is.
        replaces: Option<Identity>,
    },
    /// This text is appended to a file.
    Append {
        /// The file.
        place: Place,
        /// Its bytes before that.
        len: u64,
        /// The text.
        text: String,
    },
    /// This text is written to a file.
    Write {
        /// The file.
        place: Place,
        /// The text.
        text: String,
        /// What was there, if anything was.
        was: Option<Identity>,
    },
    /// This text is written to the `.meta` of a file; the place has the stem.
    Meta {
        /// The folder and the stem.
        place: Place,
        /// The text.
        text: String,
    },
    /// A file that arrived is removed, whatever it is; the place has its name.
    Reject(Place),
    /// A file is put out of sight; the place has its stem.
    Hide(Place),
    /// A file is moved to the path that its sender wants; the place has its stem.
    Put {
        /// The folder and the stem.
        place: Place,
        /// The text of its `.meta`, which says where it goes.
        text: String,
    },
    /// Lines are added to the inbox of the user.
    Tell(String),
    /// Every `.failed` becomes a `.meta` again.
    Reset(Name),
    /// Old partial files are removed, and what is left of refused ones.
    Sweep {
        /// The folder.
        folder: Name,
        /// From before that time, in seconds since 1970.
        before: u64,
    },
}

impl Change {
    /// As the journal stores it: a word, places, then the rest.
    pub fn to_value(&self) -> Value {
        let place = |(folder, name): &Place| -> Vec<Value> {
            vec![folder.as_str().into(), name.as_str().into()]
        };
        let identity = |of: &Option<Identity>| -> Vec<Value> {
            match of {
                Some(Identity { stat, inode }) => {
                    vec![stat.size.into(), stat.modified.into(), (*inode).into()]
                }
                None => vec![Value::Null; 3],
            }
        };
        let (word, places, rest): (_, Vec<Vec<Value>>, Vec<Value>) = match self {
            Self::MakeDir(at) => ("mkdir", vec![place(at)], vec![]),
            Self::Remove { place: at, was } => {
                ("remove", vec![place(at), identity(&Some(*was))], vec![])
            }
            Self::Move {
                from,
                to,
                was,
                replaces,
            } => {
                let stats = [identity(&Some(*was)), identity(replaces)];
                let places = [place(from), place(to)].into_iter().chain(stats);
                ("move", places.collect(), vec![])
            }
            Self::Append {
                place: at,
                len,
                text,
            } => {
                let rest = vec![(*len).into(), text.as_str().into()];
                ("append", vec![place(at)], rest)
            }
            Self::Write {
                place: at,
                text,
                was,
            } => (
                "write",
                vec![place(at), identity(was)],
                vec![text.as_str().into()],
            ),
            Self::Meta { place: at, text } => ("meta", vec![place(at)], vec![text.as_str().into()]),
            Self::Reject(at) => ("reject", vec![place(at)], vec![]),
            Self::Hide(at) => ("hide", vec![place(at)], vec![]),
            Self::Put { place: at, text } => ("put", vec![place(at)], vec![text.as_str().into()]),
            Self::Tell(lines) => ("tell", vec![], vec![lines.as_str().into()]),
            Self::Reset(folder) => ("reset", vec![], vec![folder.as_str().into()]),
            Self::Sweep { folder, before } => {
                let rest = vec![folder.as_str().into(), (*before).into()];
                ("sweep", vec![], rest)
            }
        };
        let words = [Value::from(word)].into_iter();
        words
            .chain(places.into_iter().flatten())
            .chain(rest)
            .collect()
    }

    /// Reads what [`Self::to_value`] wrote.
    pub fn from_value(value: &Value) -> Option<Self> {
        let words = value.as_array()?;
        let text = |at: usize| Some(words.get(at)?.as_str()?.to_owned());
        let folder = |at: usize| Name::folder(words.get(at)?.as_str()?).ok();
        let place = |at: usize| Some((folder(at)?, text(at + 1)?));
        let identity = |at: usize| {
            let stat = Stat {
                kind: Kind::File,
                size: words.get(at)?.as_u64()?,
                modified: words.get(at + 1)?.as_i64()?,
            };
            let inode = words.get(at + 2)?.as_u64()?;
            Some(Identity { stat, inode })
        };
        Some(match words.first()?.as_str()? {
            "mkdir" => Self::MakeDir(place(1)?),
            "remove" => Self::Remove {
                place: place(1)?,
                was: identity(3)?,
            },
            "move" => Self::Move {
                from: place(1)?,
                to: place(3)?,
                was: identity(5)?,
                replaces: identity(8),
            },
            "append" => Self::Append {
                place: place(1)?,
                len: words.get(3)?.as_u64()?,
                text: text(4)?,
            },
            "write" => Self::Write {
                place: place(1)?,
                was: identity(3),
                text: text(6)?,
            },
            "meta" => Self::Meta {
                place: place(1)?,
                text: text(3)?,
            },
            "reject" => Self::Reject(place(1)?),
            "hide" => Self::Hide(place(1)?),
            "put" => Self::Put {
                place: place(1)?,
                text: text(3)?,
            },
            "tell" => Self::Tell(text(1)?),
            "reset" => Self::Reset(folder(1)?),
            "sweep" => Self::Sweep {
                folder: folder(1)?,
                before: words.get(2)?.as_u64()?,
            },
            _ => return None,
        })
    }

    /// The places of the files that it changes, if it names them.
    pub fn places(&self) -> Vec<Place> {
        let of =
            |(folder, stem): &Place, ending: &str| (folder.clone(), format!("{stem}.{ending}"));
        match self {
            Self::Move { from, to, .. } => vec![from.clone(), to.clone()],
            Self::MakeDir(place)
            | Self::Remove { place, .. }
            | Self::Write { place, .. }
            | Self::Append { place, .. }
            | Self::Reject(place) => vec![place.clone()],
            Self::Meta { place, .. } => vec![of(place, "meta")],
            Self::Hide(place) | Self::Put { place, .. } => {
                vec![of(place, "data"), of(place, "meta")]
            }
            Self::Tell(_) | Self::Reset(_) | Self::Sweep { .. } => Vec::new(),
        }
    }

    /// Whether it moves or removes a file: a change of an earlier decision that is made again would
    /// not find the file.
    pub fn displaces(&self) -> bool {
        matches!(
            self,
            Self::Move { .. }
                | Self::Remove { .. }
                | Self::Reject(_)
                | Self::Hide(_)
                | Self::Put { .. }
        )
    }

    /// The file that nobody may see from the decision on.
    pub fn withholds(&self) -> Option<Place> {
        let data = |(folder, stem): &Place| (folder.clone(), format!("{stem}.data"));
        match self {
            Self::Reject(place) => Some(place.clone()),
            Self::Hide(place) | Self::Put { place, .. } => Some(data(place)),
            _ => None,
        }
    }

    /// The folders that it is about.
    pub(super) fn folders(&self) -> Vec<Name> {
        match self {
            Self::Reset(folder) | Self::Sweep { folder, .. } => vec![folder.clone()],
            change => {
                let places = change.places().into_iter();
                places.map(|(folder, _)| folder).collect()
            }
        }
    }
}

/// The body of a row of the journal: what is to be done, and the tasks that follow it.
pub fn to_body(changes: &[Change], then: &[Task]) -> String {
    let mut body = Map::new();
    body.insert(
        "do".to_owned(),
        changes.iter().map(Change::to_value).collect(),
    );
    if !then.is_empty() {
        let tasks = then.iter().map(Task::to_document).map(Value::Object);
        body.insert("then".to_owned(), tasks.collect());
    }
    Value::Object(body).to_string()
}

/// Reads what [`to_body`] wrote.
pub fn from_body(body: &str) -> Option<(Vec<Change>, Vec<Task>)> {
    let value: Value = serde_json::from_str(body).ok()?;
    let changes = value.get("do")?.as_array()?.iter().map(Change::from_value);
    let then = value.get("then").and_then(Value::as_array);
    let then = then.into_iter().flatten();
    let tasks = then.map(|task| Task::from_document(task.as_object()?));
    Some((
        changes.collect::<Option<_>>()?,
        tasks.collect::<Option<_>>()?,
    ))
}

//! `names`: many names, as `folder.list` gives them.
//!
//! Not an array: all texts in one of Rhai's together count as one text, so that it holds
//! no more than some eighty names.

use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, ImmutableString};

use super::function::{Function, Made, fail};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "names",
        "names.len()",
        "How many names there are. A `for` goes through all of them.",
        r#"
let names = folder.list("*.txt");
assert_eq(names.len(), 1);
for name in names { log.info(name); }
"#,
    ),
    Function::new(
        "names",
        "names.is_empty()",
        "Whether the list is empty.",
        r#"
if folder.list("*.exe").is_empty() { log.info("no program"); }
"#,
    ),
    Function::new(
        "names",
        "names.contains(name)",
        "Whether the list contains a name; `in` does the same.",
        r#"
let names = folder.list();
assert(names.contains("abc.txt"));
assert("abc.txt" in names);
"#,
    ),
    Function::new(
        "names",
        "names[index]",
        "The name at an index, counted from 0.",
        r#"
assert_eq(folder.list("*.txt")[0], "abc.txt");
"#,
    ),
    Function::new(
        "names",
        "names.to_array()",
        "The names as an array, if they have no more than 8,192 bytes in total.",
        r#"
let long = folder.list().to_array().filter(|name| name.len() > 30);
assert_eq(long.len(), 2);
"#,
    ),
];

/// Names in a script.
#[derive(Clone)]
pub struct Names(Arc<[ImmutableString]>);

impl Names {
    pub(super) fn new(names: Vec<ImmutableString>) -> Self {
        Self(names.into())
    }

    fn at(&mut self, index: i64) -> Made<ImmutableString> {
        let name = usize::try_from(index).ok().and_then(|n| self.0.get(n));
        name.cloned().ok_or_else(|| {
            let len = self.0.len();
            fail(format!("names[{index}]: there are {len}, from 0 on"))
        })
    }
}

impl IntoIterator for Names {
    type Item = ImmutableString;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        Iter {
            names: self.0,
            next: 0,
        }
    }
}

/// Goes through names.
pub struct Iter {
    names: Arc<[ImmutableString]>,
    next: usize,
}

impl Iterator for Iter {
    type Item = ImmutableString;

    fn next(&mut self) -> Option<ImmutableString> {
        let name = self.names.get(self.next)?;
        self.next += 1;
        Some(name.clone())
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Names>("Names")
        .register_iterator::<Names>()
        .register_fn("len", |names: &mut Names| names.0.len() as i64)
        .register_fn("is_empty", |names: &mut Names| names.0.is_empty())
        .register_fn("contains", |names: &mut Names, name: &str| {
            names
                .0
                .binary_search_by(|one| one.as_str().cmp(name))
                .is_ok()
        })
        .register_indexer_get(Names::at)
        .register_fn("to_array", |names: &mut Names| -> Array {
            names.0.iter().cloned().map(Dynamic::from).collect()
        });
}

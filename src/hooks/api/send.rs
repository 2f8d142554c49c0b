//! `send`: hands a file on to another person.

use std::cell::RefCell;

use rhai::Engine;

use super::{
    actions::Actions,
    folder,
    function::{Function, Made, fail, shown},
    value::from_dynamic,
};
use crate::{
    event::Effect,
    json::{self, Map, Value},
    meta::is_extra,
    root::name::Name,
};

/// Bytes of the further fields of one file, as JSON.
const MAX_FIELDS: usize = 4_096;

pub(super) const FUNCTIONS: &[Function] = &[Function::new(
    "send",
    "send(#{to, folder, file, fields})",
    "Sends a file of the folder to a contact, into the contact's folder, once the hooks of the event have decided. The fields, at most 4 KiB as JSON, are added to the .meta that the contact gets; they may be left out.",
    r#"
send(#{ to: "zhenqiang", folder: "photo", file: event.data_file });
send(#{ to: "zhenqiang", folder: "photo", file: "abc.txt", fields: #{ place: "Uetliberg" } });
"#,
)];

thread_local! {
    // The function stands alone: it is not called on a value that knows the folder.
    static CURRENT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// What `send` needs to know.
#[derive(Clone)]
pub struct Handle {
    folder: folder::Handle,
    actions: Actions,
}

impl Handle {
    pub(super) fn new(folder: &folder::Handle, actions: &Actions) -> Self {
        Self {
            folder: folder.clone(),
            actions: actions.clone(),
        }
    }

    /// Runs a script whose `send` this is.
    pub(super) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        /// Takes it off the thread, even after a panic.
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some(self.clone()));
        let _over = Over;
        run()
    }

    fn send(&self, what: &rhai::Map) -> Made<()> {
        if let Some(other) = what
            .keys()
            .find(|key| !["to", "folder", "file", "fields"].contains(&key.as_str()))
        {
            let other = shown(other);
            return Err(fail(format!(
                "send() has no field {other}: it takes to, folder, file and fields"
            )));
        }
        let text = |field: &str| {
            let value = what.get(field).cloned().unwrap_or_default();
            value.into_string().map_err(|_| {
                fail(format!(
                    "send(): {field} must be text: send(#{{to: \"...\", folder: \"...\", file: \"...\"}})"
                ))
            })
        };
        let (to, folder, file) = (text("to")?, text("folder")?, text("file")?);
        let wrong = |e: &dyn std::fmt::Display| fail(format!("send(): {e}"));
        let to = Name::user(&to).map_err(|e| wrong(&e))?;
        let folder = Name::folder(&folder).map_err(|e| wrong(&e))?;
        let user = self.folder.folder().user();
        user.contact(&to).map_err(|e| wrong(&e))?;
        self.folder.about("send()", &file)?;
        let fields = fields(what)?;
        self.actions.queue(Effect::Send {
            to: to.to_string(),
            folder: folder.to_string(),
            file,
            fields,
        })
    }
}

/// The further fields that a script asks for.
fn fields(what: &rhai::Map) -> Made<Map<String, Value>> {
    let Some(fields) = what.get("fields") else {
        return Ok(Map::new());
    };
    let fields = from_dynamic(fields).map_err(|e| fail(format!("send(): fields: {e}")))?;
    let Value::Object(fields) = fields else {
        return Err(fail("send(): fields must be a map"));
    };
    if let Some(field) = fields.keys().find(|field| !is_extra(field)) {
        let field = shown(field);
        return Err(fail(format!(
            "send(): fields: {field} is a field of m2y's own"
        )));
    }
    if json::canonical(&fields).len() > MAX_FIELDS {
        return Err(fail(format!(
            "send(): the fields may have {MAX_FIELDS} bytes as JSON"
        )));
    }
    Ok(fields)
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("send", |what: rhai::Map| {
        let current = CURRENT.with_borrow(Clone::clone);
        current
            .ok_or_else(|| fail("send() works only in a hook of an event"))?
            .send(&what)
    });
}

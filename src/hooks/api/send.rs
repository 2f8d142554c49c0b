//! `send`: hands a file on to another person. `reply`: answers a message.

use std::cell::RefCell;

use rhai::Engine;

use super::{
    actions::Actions,
    folder,
    function::{Function, Made, fail, shown},
    value::from_dynamic,
};
use crate::{
    event::{Effect, Event, Kind},
    json::{self, Map, Value},
    message,
    meta::is_extra,
    root::name::Name,
};

/// Bytes of the further fields of one file, as JSON.
const MAX_FIELDS: usize = 4_096;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "send",
        "reply(text)",
        "Answers the message of the event, once the hooks have decided: once, however often they run. Returns false, and sends nothing, if a script wrote that message, so two scripts cannot keep answering each other. The answer goes into the sender's folder of the same name and has at most 16 KiB. [outbox] of m2y.config must have auto = yes.",
        r#"
if event.text == "status?" { reply(`${folder.list("*.jpg").len()} pictures`); }
"#,
    )
    .only_at(&[Kind::Message]),
    Function::new(
    "send",
    "send(#{to, folder, file, fields})",
    "Sends a file of the folder to a contact, into the contact's folder, once the hooks of the event have decided. The fields, at most 4 KiB as JSON, are added to the .meta that the contact gets; they may be left out.",
    r#"
send(#{ to: "zhenqiang", folder: "photo", file: event.data_file });
send(#{ to: "zhenqiang", folder: "photo", file: "abc.txt", fields: #{ place: "Uetliberg" } });
"#,
    ),
];

thread_local! {
    // The function stands alone: it is not called on a value that knows the folder.
    static CURRENT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// What `send` and `reply` need to know.
#[derive(Clone)]
pub struct Handle {
    folder: folder::Handle,
    actions: Actions,
    /// At a message: who gets the answer, and whether a script wrote the message.
    replies: Option<(String, bool)>,
}

impl Handle {
    pub(super) fn new(event: &Event, folder: &folder::Handle, actions: &Actions) -> Self {
        let meta = event.subject.as_ref().map(|subject| &subject.meta);
        let replies = meta.filter(|_| event.kind == Kind::Message);
        Self {
            folder: folder.clone(),
            actions: actions.clone(),
            replies: replies.map(|meta| (meta.from.clone(), meta.is_automatic())),
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

    fn reply(&self, text: &str) -> Made<bool> {
        let Some((to, is_automatic)) = &self.replies else {
            return Err(fail("reply() works only at OnMessage"));
        };
        message::check(text).map_err(|e| fail(format!("reply(): {e}")))?;
        if *is_automatic {
            return Ok(false);
        }
        if self.actions.transaction().is_answered() {
            return Err(fail("reply() can be called once for a message"));
        }
        self.actions.queue(Effect::Message {
            to: to.clone(),
            folder: self.folder.folder().name().to_string(),
            text: text.to_owned(),
        })?;
        Ok(true)
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
    if fields.get(message::KIND).and_then(Value::as_str) == Some(message::MESSAGE) {
        return Err(fail("send(): this is for files: reply() answers a message"));
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
    engine.register_fn("reply", |text: &str| {
        let current = CURRENT.with_borrow(Clone::clone);
        current
            .ok_or_else(|| fail("reply() works only at OnMessage"))?
            .reply(text)
    });
}

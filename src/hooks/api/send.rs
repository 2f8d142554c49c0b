//! `send`: hands a file on to another person.

use std::cell::RefCell;

use rhai::{Engine, Map};

use super::{Function, Made, deeds::Deeds, fail, folder, shown};
use crate::{event::Effect, root::name::Name};

pub(super) const FUNCTIONS: &[Function] = &[Function::new(
    "send",
    "send(#{to, folder, file})",
    "Sends a file of the folder to a contact, into the contact's folder, once the hooks of the event have decided.",
    r#"
send(#{ to: "zhenqiang", folder: "photo", file: event.data_file });
"#,
)];

thread_local! {
    // The function stands alone, so it is called on no value that knows the folder.
    static CURRENT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// What `send` needs to know.
#[derive(Clone)]
pub struct Handle {
    folder: folder::Handle,
    deeds: Deeds,
}

impl Handle {
    pub(super) fn new(folder: &folder::Handle, deeds: &Deeds) -> Self {
        Self {
            folder: folder.clone(),
            deeds: deeds.clone(),
        }
    }

    /// Runs a script whose `send` this is.
    pub(super) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        /// Takes it off the thread, whatever panics.
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

    fn send(&self, what: &Map) -> Made<()> {
        if let Some(other) = what
            .keys()
            .find(|key| !["to", "folder", "file"].contains(&key.as_str()))
        {
            let other = shown(other);
            return Err(fail(format!(
                "send(): {other} is none of its fields: it takes to, folder and file"
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
        self.deeds.queue(Effect::Send {
            to: to.to_string(),
            folder: folder.to_string(),
            file,
        })
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("send", |what: Map| {
        let current = CURRENT.with_borrow(Clone::clone);
        current
            .ok_or_else(|| fail("send(): there is no event, call it in a hook"))?
            .send(&what)
    });
}

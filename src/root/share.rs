//! What a contact may see and do in a folder: the section `[share]` of its m2y.config.
//!
//! ```text
//! [share]
//! zhenqiang = list get
//! peter-norton = list get put mkdir rm mv
//! ```

use super::{config::Config, name::Name};

/// The section.
pub const SECTION: &str = "share";

/// What a contact may do; nothing, unless a line says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// See what is there.
    pub list: bool,
    /// Fetch files.
    pub get: bool,
    /// Store files.
    pub put: bool,
    /// Make directories.
    pub mkdir: bool,
    /// Remove files and empty directories.
    pub rm: bool,
    /// Move files and directories.
    pub mv: bool,
}

impl Rights {
    /// Listing and fetching.
    pub const READ: Self = Self {
        list: true,
        get: true,
        put: false,
        mkdir: false,
        rm: false,
        mv: false,
    };

    /// Reads the words after a name.
    pub fn parse(words: &str) -> Result<Self, String> {
        let mut rights = Self::default();
        for word in words.split(|c: char| c == ',' || c.is_whitespace()) {
            match word {
                "" => {}
                "list" => rights.list = true,
                "get" => rights.get = true,
                "put" => rights.put = true,
                "mkdir" => rights.mkdir = true,
                "rm" => rights.rm = true,
                "mv" => rights.mv = true,
                other => {
                    return Err(format!(
                        "{other:?} is not a right: use list, get, put, mkdir, rm or mv"
                    ));
                }
            }
        }
        Ok(rights)
    }

    /// What a contact may do in the folder of that m2y.config.
    pub fn of(config: &Config, contact: &Name) -> Self {
        let words = config.get(SECTION, contact.as_str());
        // A line that cannot be read allows nothing.
        words
            .map_or(Ok(Self::default()), Self::parse)
            .unwrap_or_default()
    }

    /// Whether anything is allowed.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn somebody_has_the_rights_of_the_line_and_nobody_any_other() {
        let text = "[share]\nzhenqiang = list get\npeter = put, rm\n[permission]\nmaria = always\n";
        let config = Config::parse(text).unwrap();
        let of = |name| Rights::of(&config, &Name::user(name).unwrap());
        assert_eq!(of("zhenqiang"), Rights::READ);
        assert!(of("peter").put && of("peter").rm && !of("peter").list);
        assert!(!of("maria").any() && !of("Zhenqiang").any());
    }

    #[test]
    fn a_mistyped_right_is_an_error_with_its_line() {
        let error = Config::parse("[OnMeta]\n\n[share]\nzhenqiang = list gte\n").unwrap_err();
        assert_eq!(error.line, 4);
        assert!(error.reason.contains("gte"), "{error}");
    }
}

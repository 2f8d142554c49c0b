//! What to do if a different file has that name.

/// What to do about a file that already has the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// Leave it, and report an error.
    #[default]
    Refuse,
    /// Put the new one in its place.
    Overwrite,
    /// Add a number to the name of the new one.
    Rename,
}

impl Conflict {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Refuse, Self::Overwrite, Self::Rename];

    /// The word for it, on the wire and in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Overwrite => "overwrite",
            Self::Rename => "rename",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// Names for a file, in the order in which they are tried: its own, then `a_2.jpg`,
/// `a_3.jpg` and so on.
pub fn names(name: &str) -> impl Iterator<Item = String> {
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem.to_owned(), format!(".{ending}")),
        _ => (name.to_owned(), String::new()),
    };
    (1_u32..).map(move |number| match number {
        1 => format!("{stem}{ending}"),
        n => format!("{stem}_{n}{ending}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_before_the_ending() {
        let of = |name| names(name).take(2).collect::<Vec<_>>();
        assert_eq!(of("a.jpg"), ["a.jpg", "a_2.jpg"]);
        assert_eq!(of("a.tar.gz"), ["a.tar.gz", "a.tar_2.gz"]);
        assert_eq!(of("README"), ["README", "README_2"]);
    }
}

//! Emoji in what a person types.

/// The short codes of seed 002, and what each stands for.
const CODES: [(&str, &str); 5] = [
    ("(L)", "\u{2665}\u{fe0f}"),
    ("(K)", "\u{1f48b}"),
    (":)", "\u{1f600}"),
    ("(8)", "\u{1f3b5}"),
    (":[", "\u{1f9db}\u{200d}\u{2642}\u{fe0f}"),
];

/// The text with emoji for `:name:`, and for short codes that stand alone between spaces.
pub fn with_emoji(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let code = CODES.iter().find(|(code, _)| *code == word);
        code.map_or_else(|| with_names(word), |(_, emoji)| (*emoji).to_owned())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A word with emoji for `:name:`.
fn with_names(word: &str) -> String {
    let mut parts = word.split(':');
    let mut text = parts.next().unwrap_or_default().to_owned();
    // Whether the colon before the next part may still begin a name.
    let mut is_open = true;
    let mut rest = parts.peekable();
    while let Some(part) = rest.next() {
        let is_closed = rest.peek().is_some();
        match emojis::get_by_shortcode(part).filter(|_| is_open && is_closed) {
            Some(emoji) => {
                text.push_str(emoji.as_str());
                // Its second colon begins nothing.
                is_open = false;
            }
            None => {
                if is_open {
                    text.push(':');
                }
                text.push_str(part);
                is_open = true;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_stand_alone_and_names_between_colons_become_emoji() {
        for (typed, meant) in [
            ("(L)", "♥️"),
            (":) How are you??? (8)", "😀 How are you??? 🎵"),
            (":[", "🧛\u{200d}♂️"),
            ("f(L) (K)!", "f(L) (K)!"),
            (":tada:", "🎉"),
            ("great :tada:!", "great 🎉!"),
            (":tada::heart:", "🎉❤️"),
            ("12:30:45", "12:30:45"),
            ("a::b", "a::b"),
            ("http://a:80", "http://a:80"),
            (":nothing of that name:", ":nothing of that name:"),
            (" two  spaces ", " two  spaces "),
            ("", ""),
        ] {
            assert_eq!(with_emoji(typed), meant, "{typed}");
        }
    }
}

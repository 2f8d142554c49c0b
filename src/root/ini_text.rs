//! Edits of the texts of `.ini` files that people write too: everything else stays as it is.

/// A text with a value put under a heading, in place of the one that is there.
pub(super) fn with(text: &str, heading: &str, key: &str, value: &str) -> String {
    let heading = format!("[{heading}]");
    let new_line = format!("{key} = {value}\n");
    let mut out = String::with_capacity(text.len() + 64);
    let (mut inside, mut written) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            inside = line.trim() == heading;
        } else if inside && is_of(line, key) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if inside && !written {
            out.push_str(&new_line);
            written = true;
        }
    }
    if !written {
        out.push_str(&format!("{heading}\n{new_line}"));
    }
    out
}

/// A text without these keys of a heading, and without the heading too if nothing else is below it.
pub(super) fn without(text: &str, heading: &str, keys: &[&str]) -> String {
    let heading = format!("[{heading}]");
    let mut out = String::with_capacity(text.len());
    // A heading that waits for a line below it.
    let mut waiting = None;
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            inside = line.trim() == heading;
            waiting = inside.then_some(line);
            if inside {
                continue;
            }
        } else if inside && keys.iter().any(|key| is_of(line, key)) {
            continue;
        }
        if !line.trim().is_empty()
            && let Some(heading) = waiting.take()
        {
            out.push_str(heading);
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn is_of(line: &str, key: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(name, _)| name.trim() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_out_and_all_else_stays() {
        let text = "# mine\n[peter]\naddress = a:1\n[zhenqiang]\naddress = b:1\n[x]\ny = z\n";
        assert_eq!(
            without(text, "zhenqiang", &["address", "folder"]),
            "# mine\n[peter]\naddress = a:1\n[x]\ny = z\n"
        );
        let text = "[zhenqiang]\naddress = b:1\nnote = x\nfolder = photo\n";
        assert_eq!(
            without(text, "zhenqiang", &["address", "folder"]),
            "[zhenqiang]\nnote = x\n"
        );
        let text = "[peter]\naddress = a:1\n";
        assert_eq!(without(text, "zhenqiang", &["address"]), text);
    }

    #[test]
    fn a_value_is_put_in_and_all_else_stays() {
        let text = "# mine\n[peter]\naddress = a:1\n[zhenqiang]\nnote = x\naddress = old:1\n";
        assert_eq!(
            with(text, "zhenqiang", "address", "new:2"),
            "# mine\n[peter]\naddress = a:1\n[zhenqiang]\naddress = new:2\nnote = x\n"
        );
        assert_eq!(
            with("", "zhenqiang", "address", "h:3"),
            "[zhenqiang]\naddress = h:3\n"
        );
    }
}

//! The guide: pages for people, which `m2y guide` shows too.

/// A page of the guide.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The word by which it is asked for.
    pub topic: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// The text, in Markdown.
    pub text: &'static str,
}

macro_rules! pages {
    ($($name:ident $topic:literal $about:literal;)*) => {
        /// All pages, in reading order.
        pub const PAGES: &[Page] = &[$(Page {
            topic: $topic,
            about: $about,
            text: include_str!(concat!("guide/", $topic, ".md")),
        }),*];

        $(
            #[doc = include_str!(concat!("guide/", $topic, ".md"))]
            pub mod $name {}
        )*
    };
}

pages! {
    first_steps "first-steps" "two people, one server, the first file";
    reach "reach" "addresses, TLS, QUIC, certificates, firewalls, relays";
    talk "talk" "messages, conversations, bots";
    hooks "hooks" "scripts that decide and act: events, functions, limits, tests";
    events "events" "what waits, what is retried, what hooks put out of sight";
    sharing "sharing" "list, get, put, and the shell";
    console "console" "what the server does, stopping it, changing its settings";
    operations "operations" "ports, services, settings, logs, metrics, backups";
    stores "stores" "other disks, S3, a contact, or four of them; moving, losing, restoring";
    security "security" "what m2y protects against, and what not";
    speed "speed" "figures, side by side with other programs";
    troubleshooting "troubleshooting" "messages, what to do about them, exit codes";
    coming_from "coming-from" "from hooks of SFTPGo and tusd";
}

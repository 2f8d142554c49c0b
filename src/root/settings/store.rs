//! `[store NAME]` of m2y.ini: places where the contents of folders may be stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use url::Url;

use crate::{error::did_you_mean, root::name::Name};

/// The section's name before that of the store.
pub const SECTION: &str = "store ";

/// A place that a section names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket of an S3-compatible server.
    Bucket(Bucket),
    /// A folder that a contact shares.
    Contact(ContactFolder),
    /// Four other stores. Any two of them are enough to rebuild a file.
    Stripe(Striped),
}

/// A store of four others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Striped {
    /// Their names; the order tells which share each holds.
    pub members: [String; 4],
    /// How many must hold their part before a write counts: 3 or 4.
    pub write: usize,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What its keys begin with; may be empty.
    pub prefix: String,
    /// The server; `None` for that of Amazon in the region.
    pub endpoint: Option<String>,
    /// The region; `None` for that of the variables.
    pub region: Option<String>,
    /// Whether the name of the bucket is in the path of requests, and not in that of the server;
    /// `None` if it is with an endpoint of one's own.
    pub path_style: Option<bool>,
    /// Whether the endpoint may be one without TLS.
    pub allow_http: bool,
    /// How files are stored there.
    pub layout: Layout,
}

/// How the files of a folder are stored in a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Sealed, in chunks: who reads the bucket learns sizes and times.
    #[default]
    Sealed,
    /// One object for each file, under its own path, for other programs to read.
    Plain,
}

impl Bucket {
    /// Whether the name of the bucket is in the path of requests.
    pub fn is_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// As a person writes it.
    pub fn shown(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        let at = match &self.endpoint {
            Some(endpoint) => format!(" at {endpoint}"),
            None => String::new(),
        };
        let plain = match self.layout {
            Layout::Sealed => "",
            Layout::Plain => ", plain",
        };
        format!("s3://{}{slash}{}{at}{plain}", self.name, self.prefix)
    }
}

/// A folder of a contact, on that contact's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactFolder {
    /// The user of this root whose contact it is.
    pub user: Name,
    /// The contact.
    pub contact: Name,
    /// The folder that the contact shares with the user.
    pub folder: Name,
}

impl ContactFolder {
    /// As a person writes it.
    pub fn shown(&self) -> String {
        let Self {
            user,
            contact,
            folder,
        } = self;
        format!("m2y://{contact}/{folder} as {user}")
    }
}

impl Place {
    /// As a person writes it.
    pub fn shown(&self) -> String {
        match self {
            Self::Directory(path) => format!("file://{}", path.display()),
            Self::Bucket(bucket) => bucket.shown(),
            Self::Contact(folder) => folder.shown(),
            Self::Stripe(striped) => format!(
                "stripe of {}, written at {}",
                striped.members.join(", "),
                striped.write
            ),
        }
    }
}

/// The sections as they are read, key by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Sections(BTreeMap<String, BTreeMap<String, String>>);

/// The keys of a section.
pub(super) const KEYS: [&str; 9] = [
    "url",
    "endpoint",
    "region",
    "path_style",
    "allow_http",
    "layout",
    "user",
    "stripe",
    "write",
];

impl Sections {
    /// Begins a section, which may be empty.
    pub(super) fn begin(&mut self, store: &str) {
        self.0.entry(store.trim().to_owned()).or_default();
    }

    /// Takes a key of a section.
    pub(super) fn set(&mut self, store: &str, key: &str, value: &str) -> Result<(), &'static str> {
        if !KEYS.contains(&key) {
            return Err(super::UNKNOWN);
        }
        let section = self.0.entry(store.trim().to_owned()).or_default();
        section.insert(key.to_owned(), value.trim().to_owned());
        Ok(())
    }

    /// The places that all sections name.
    pub(super) fn places(self) -> Result<BTreeMap<String, Place>, String> {
        let mut places = BTreeMap::new();
        for (name, section) in self.0 {
            let at = |why: String| format!("[{SECTION}{name}] {why}");
            check_name(&name).map_err(|why| at(why.to_owned()))?;
            let place = place(&section).map_err(at)?;
            places.insert(name, place);
        }
        for (name, place) in &places {
            if let Place::Stripe(striped) = place {
                check_members(striped, &places)
                    .map_err(|why| format!("[{SECTION}{name}] {why}"))?;
            }
        }
        Ok(places)
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name == crate::root::folder_store::LOCAL {
        return Err("is what a folder's own directory is called: use another name");
    }
    match (1..=32).contains(&name.len()) && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err("cannot be the name of a store: use 1 to 32 of a-z, 0-9 and -"),
    }
}

/// Whether a stripe is one of four unlike stores.
fn check_members(striped: &Striped, places: &BTreeMap<String, Place>) -> Result<(), String> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for member in &striped.members {
        let at = |why: String| format!("stripe: {member} {why}");
        match places.get(member) {
            None => {
                let near = did_you_mean(member, places.keys().map(String::as_str));
                return Err(at(format!("has no section [{SECTION}{member}]{near}")));
            }
            Some(Place::Stripe(_)) => return Err(at("is a stripe itself".to_owned())),
            Some(Place::Bucket(bucket)) if bucket.layout == Layout::Plain => {
                return Err(at(
                    "has layout = plain, and only sealed stores can be in a stripe".to_owned(),
                ));
            }
            Some(place) => {
                // Two members in one place are lost together.
                if let Some(other) = seen.insert(place.shown(), member) {
                    return Err(at(format!("and {other} are the same place")));
                }
            }
        }
    }
    Ok(())
}

fn stripe(section: &BTreeMap<String, String>, members: &str) -> Result<Place, String> {
    if let Some(key) = section
        .keys()
        .find(|key| *key != "stripe" && *key != "write")
    {
        return Err(format!("{key}: a store with stripe = has no such setting"));
    }
    let members: Vec<String> = members.split_whitespace().map(str::to_owned).collect();
    let members = members.try_into();
    let members =
        members.map_err(|_| "stripe: needs the names of four stores with spaces between")?;
    let write = match section.get("write").map_or("3", |write| write.trim()) {
        "3" => 3,
        "4" => 4,
        other => {
            return Err(format!(
                "write = {other}: must be 3 or 4, so that a further loss can be borne"
            ));
        }
    };
    Ok(Place::Stripe(Striped { members, write }))
}

fn place(section: &BTreeMap<String, String>) -> Result<Place, String> {
    if let Some(members) = section.get("stripe") {
        return stripe(section, members);
    }
    if section.contains_key("write") {
        return Err("write: only a store with stripe = has this setting".to_owned());
    }
    let get = |key: &str| section.get(key).filter(|value| !value.is_empty());
    let text = get("url").ok_or(
        "needs a url, like file:///mnt/disk/m2y, s3://bucket/prefix or m2y://contact/folder",
    )?;
    let url = Url::parse(text).map_err(|e| format!("url = {text}: {e}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        // The text has a secret in it.
        let instead = match url.scheme() {
            "m2y" => "name the user in a line of its own, user = NAME",
            _ => "they come from AWS_* variables",
        };
        return Err(format!("url: must hold no credentials: {instead}"));
    }
    if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
        return Err(format!("url = {text}: must not have a port, a ? or a #"));
    }
    let yes = |key: &str| match get(key).map(String::as_str) {
        None => Ok(None),
        Some("yes" | "true") => Ok(Some(true)),
        Some("no" | "false") => Ok(Some(false)),
        Some(other) => Err(format!("{key} = {other}: must be yes or no")),
    };
    let only = |keys: &[&str]| {
        let keys: BTreeSet<&str> = keys.iter().copied().collect();
        let strange = section.keys().find(|key| !keys.contains(key.as_str()));
        strange.map_or(Ok(()), |key| {
            Err(format!(
                "{key}: a store with url = {text} has no such setting"
            ))
        })
    };
    match url.scheme() {
        "file" => {
            if section.contains_key("layout") {
                return Err(format!(
                    "layout: only buckets have a layout; for files as they are on a disk, leave \
                     the folder in its own directory, and mount the disk there (url = {text})"
                ));
            }
            only(&["url"])?;
            let path = url.to_file_path();
            let path = path.map_err(|()| format!("url = {text}: write file:///path"))?;
            Ok(Place::Directory(path))
        }
        "s3" => {
            let name = url.host_str().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| format!("url = {text}: write s3://bucket/prefix"))?;
            if url.path().contains('%') {
                return Err(format!(
                    "url = {text}: use letters, digits, - _ . in the prefix"
                ));
            }
            let endpoint = get("endpoint").cloned();
            let allow_http = yes("allow_http")?.unwrap_or(false);
            if let Some(endpoint) = &endpoint {
                let is_plain = endpoint.starts_with("http://");
                if !is_plain && !endpoint.starts_with("https://") {
                    return Err(format!("endpoint = {endpoint}: must begin with https://"));
                }
                if is_plain && !allow_http {
                    return Err(format!(
                        "endpoint = {endpoint}: has no TLS: use https://, or add allow_http = yes"
                    ));
                }
            }
            Ok(Place::Bucket(Bucket {
                name: name.to_owned(),
                prefix: url.path().trim_matches('/').to_owned(),
                endpoint,
                region: get("region").cloned(),
                path_style: yes("path_style")?,
                allow_http,
                layout: match get("layout").map(String::as_str) {
                    None | Some("sealed") => Layout::Sealed,
                    Some("plain") => Layout::Plain,
                    Some(other) => {
                        return Err(format!("layout = {other}: must be sealed or plain"));
                    }
                },
            }))
        }
        "m2y" => {
            only(&["url", "user"])?;
            let user = get("user").ok_or_else(|| {
                format!("url = {text}: needs user = NAME too, the user whose contact that is")
            })?;
            contact_folder(text, user).map(Place::Contact)
        }
        other => Err(format!(
            "url = {text}: {other}:// is not known: use file://, s3:// or m2y://"
        )),
    }
}

/// Reads the text itself: in a URL, letters beyond ASCII would be escaped.
fn contact_folder(text: &str, user: &str) -> Result<ContactFolder, String> {
    let path = text
        .strip_prefix("m2y://")
        .map(|path| path.trim_end_matches('/'));
    let (contact, folder) = path
        .and_then(|path| path.split_once('/'))
        .ok_or_else(|| format!("url = {text}: write m2y://contact/folder"))?;
    let user = Name::user(&Name::composed(user)).map_err(|e| format!("user = {user}: {e}"))?;
    let wrong = |e| format!("url = {text}: {e}");
    Ok(ContactFolder {
        user,
        contact: Name::user(&Name::composed(contact)).map_err(wrong)?,
        folder: Name::folder(&Name::composed(folder)).map_err(wrong)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, Place>, String> {
        Settings::parse(text).map(|settings| settings.stores)
    }

    #[test]
    fn stores_are_named_in_sections_of_their_own() {
        let text = "[store disk]\nurl = file:///mnt/disk/m2y\n[store cloud]\n\
            url = s3://bucket/some/prefix/\nendpoint = http://localhost:8333\nallow_http = yes\n";
        let stores = read(text).unwrap();
        assert_eq!(stores["disk"], Place::Directory("/mnt/disk/m2y".into()));
        let Place::Bucket(bucket) = &stores["cloud"] else {
            unreachable!();
        };
        assert_eq!((&*bucket.name, &*bucket.prefix), ("bucket", "some/prefix"));
        assert!(bucket.is_path_style());
        assert_eq!(
            stores["cloud"].shown(),
            "s3://bucket/some/prefix at http://localhost:8333"
        );
    }

    #[test]
    fn a_stripe_is_four_stores_in_unlike_places() {
        let disks = "[store a]\nurl = file:///a\n[store b]\nurl = file:///b\n\
            [store c]\nurl = file:///c\n[store d]\nurl = file:///d\n[store e]\nurl = file:///a\n\
            [store p]\nurl = s3://p\nlayout = plain\n";
        let of = |section: &str| read(&format!("{disks}[store s]\n{section}"));
        let Place::Stripe(striped) = &of("stripe = a c  b d\n").unwrap()["s"] else {
            unreachable!();
        };
        assert_eq!(
            (striped.members.join(""), striped.write),
            ("acbd".to_owned(), 3)
        );
        let shown = of("stripe = a b c d\nwrite = 4\n").unwrap()["s"].shown();
        assert_eq!(shown, "stripe of a, b, c, d, written at 4");
        for (section, why) in [
            ("stripe = a b c\n", "names of four stores"),
            ("stripe = a b c x\n", "has no section [store x]"),
            ("stripe = a b c s\n", "is a stripe itself"),
            ("stripe = a b c e\n", "e and a are the same place"),
            ("stripe = a b c p\n", "p has layout = plain"),
            ("stripe = a b c a\n", "a and a are the same place"),
            ("stripe = a b c d\nwrite = 2\n", "must be 3 or 4"),
            ("stripe = a b c d\nregion = x\n", "no such setting"),
            ("url = file:///x\nwrite = 3\n", "only a store with stripe"),
        ] {
            let said = of(section).unwrap_err();
            assert!(said.contains(why), "{section}: {said}");
        }
    }

    #[test]
    fn a_folder_of_a_contact_has_the_user_whose_contact_it_is() {
        let text = "[store anna]\nurl = m2y://anna/backup/\nuser = roland-frei\n\
            [store zoe]\nurl = m2y://zo\u{eb}/ar\u{fe}\nuser = j\u{f3}n\n";
        let stores = read(text).unwrap();
        let name = |text| Name::user(text).unwrap();
        let folder = ContactFolder {
            user: name("roland-frei"),
            contact: name("anna"),
            folder: name("backup"),
        };
        assert_eq!(stores["anna"], Place::Contact(folder));
        let shown = stores["zoe"].shown();
        assert_eq!(shown, "m2y://zo\u{eb}/ar\u{fe} as j\u{f3}n");
    }

    #[test]
    fn what_is_wrong_in_a_section_is_said() {
        for (text, why) in [
            (
                "[store x]\nurl = m2y://anna/backup\n",
                "needs user = NAME too",
            ),
            (
                "[store x]\nurl = m2y://anna\nuser = jan\n",
                "write m2y://contact/folder",
            ),
            (
                "[store x]\nurl = m2y://anna/a/b\nuser = jan\n",
                "\"a/b\" cannot be a name",
            ),
            (
                "[store x]\nurl = m2y://anna/outgoing\nuser = jan\n",
                "m2y uses this directory itself",
            ),
            (
                "[store x]\nurl = m2y://anna/backup\nuser = .jan\n",
                "user = .jan: ",
            ),
            (
                "[store x]\nurl = m2y://jan@anna/backup\n",
                "name the user in a line of its own",
            ),
            (
                "[store x]\nurl = m2y://anna:5000/backup\nuser = jan\n",
                "must not have a port",
            ),
            (
                "[store x]\nurl = m2y://anna/backup\nuser = jan\nendpoint = http://h\n",
                "endpoint: a store with url = m2y://anna/backup has no such setting",
            ),
            (
                "[store x]\nurl = file:///a\nuser = jan\n",
                "user: a store with url = file:///a has no such setting",
            ),
            ("[store x]\nregion = a\n", "[store x] needs a url"),
            ("[store x]\nurl = ftp://a\n", "ftp:// is not known"),
            (
                "[store x]\nurl = file:///a\nregion = b\n",
                "no such setting",
            ),
            (
                "[store x]\nurl = s3://b\nallow_http = maybe\n",
                "must be yes or no",
            ),
            (
                "[store x]\nurl = s3://b\nendpoint = http://h\n",
                "add allow_http = yes",
            ),
            ("[store x]\n# url = s3://b\n", "[store x] needs a url"),
            ("[store x]\nurl = s3://k:secret@b\n", "no credentials"),
            ("[store x]\nurl = s3://b/a b\n", "use letters"),
            ("[store X]\nurl = s3://b\n", "cannot be the name of a store"),
            ("[store x]\nurll = s3://b\n", "did you mean url?"),
            (
                "[store x]\nurl = s3://b\nlayout = open\n",
                "layout = open: must be sealed or plain",
            ),
            (
                "[store x]\nurl = file:///b\nlayout = plain\n",
                "only buckets have a layout",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}

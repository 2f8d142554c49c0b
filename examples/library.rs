//! m2y as a library: two people in a temporary root, a server in this process, a script at
//! `[OnMeta]`, and a file that goes from one to the other.
//!
//! ```sh
//! cargo run --example library
//! ```

use std::{error::Error, fs, path::Path};

use m2y::{
    client::{self, Route},
    crypto::keys::DEFAULT_BITS,
    meta::Meta,
    observer::Unobserved,
    root::{Root, folder::Folder, meta_file, name::Name, user::User},
    server::{self, Server},
    transfer::send::send_job::SendJob,
    transport::{self, Address, Listener, Listening},
};
use tokio::sync::watch;

const CONFIG: &str = "\
[OnMeta]
shelf.rhai
";

/// It decides before a byte of the file is sent.
const SCRIPT: &str = r#"
if !meta.filename.ends_with(".txt") { throw "only texts, please"; }
meta.shelf = "letters from " + meta.from;
"#;

/// What lies in the receiver's folder afterwards.
pub struct Arrived {
    /// The bytes of the file.
    pub text: String,
    /// What the script wrote into its `.meta`.
    pub shelf: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let arrived = transfer(dir.path()).await?;
    println!(
        "{:?} arrived, for the shelf {:?}",
        arrived.text, arrived.shelf
    );
    Ok(())
}

/// Sends a letter from one person to the other; all files lie below `path`.
pub async fn transfer(path: &Path) -> Result<Arrived, Box<dyn Error>> {
    // Here both people share a root; usually each has one, on a machine of their own.
    let (root, _) = Root::init(path, &[])?;
    let sender = person(&root, "zhenqiang")?;
    let receiver = person(&root, "roland-frei")?;
    for (user, other) in [(&sender, &receiver), (&receiver, &sender)] {
        let card = other.card(None, None)?;
        user.add_contact(&card.name, &card.key, false)?;
    }
    let letters = receiver.create_folder(&Name::folder("letters")?)?;
    fs::write(letters.path_of("m2y.config"), CONFIG)?;
    fs::write(letters.path_of("shelf.rhai"), SCRIPT)?;

    // The server takes any free port, and runs until `shutdown` is true.
    let server = Server::new(&root, &root.settings()?)?;
    server.start_folders().await?;
    let listener = transport::listen(&Address::any_local_port(), &Listening::plain()).await?;
    let address = listener.address()?.to_string();
    let (shutdown, going_down) = watch::channel(false);
    let serving = tokio::spawn(server::run(listener, server, going_down));

    // The client sends what a `.meta` says, which lies beside the file.
    let outbox = sender.outbox(letters.name())?;
    let letter = outbox.join("letter.txt");
    fs::write(&letter, "Hello, Roland")?;
    let meta = Meta::new("zhenqiang", "roland-frei", "letters", "");
    let job = SendJob::open(&meta_file::write(&outbox, &letter, meta)?)?;
    let route = Route::find(None, Some(&address), &job)?;
    let sent = client::deliver(&route, &job, &Unobserved).await;
    match &sent {
        Ok(delivered) => job.done(delivered)?,
        Err(error) => job.failed(error)?,
    };
    let sent = sent?;

    shutdown.send(true)?;
    serving.await?;
    arrived(&letters, &sent)
}

fn person(root: &Root, name: &str) -> Result<User, Box<dyn Error>> {
    let profile = format!(r#"{{"username": "{name}"}}"#);
    Ok(User::create(root, name, profile.as_bytes(), DEFAULT_BITS)?.user)
}

fn arrived(folder: &Folder, sent: &Meta) -> Result<Arrived, Box<dyn Error>> {
    let stem = format!("{}_{}", sent.from, sent.datetime);
    let meta = Meta::from_file(&fs::read(folder.path_of(&format!("{stem}.meta")))?)?;
    let shelf = meta.extra.get("shelf").and_then(|shelf| shelf.as_str());
    Ok(Arrived {
        text: fs::read_to_string(folder.path_of(&format!("{stem}.data")))?,
        shelf: shelf.unwrap_or_default().to_owned(),
    })
}

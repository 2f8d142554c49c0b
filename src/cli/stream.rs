use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    Failure,
    broadcast::{self, Telling},
    completion::files_and_targets,
    folder_name,
    input::stdin,
    limit::Limit,
    remote::Asker,
    user_name,
};
use crate::{
    client::{Route, broadcast::Broadcast},
    error::{Code, Error},
    meta::{Meta, TransferId},
    root::folder::CHAT,
    transfer::send::feed::Overflow,
};

/// Stream to contacts who watch while it comes
///
/// Streams standard input or a file: a camera, the output of a program, a log. The contact is
/// asked first, in `m2y chat` or `m2y watch`, and has 30 seconds to answer; nothing is stored
/// unless the folder records streams.
///
///   ffmpeg -i /dev/video0 -f mpegts - | m2y stream - roland-frei
///   m2y stream film.mp4 roland-frei peter-norton
///   tail -f /var/log/syslog | m2y stream - roland-frei --name syslog
///
/// It is read once and sealed for each contact. A contact who watches slowly slows down the
/// input, and with it all others; with --live, a piece that a contact has no room for is dropped
/// instead, and a contact who was cut off is asked again.
///
/// Exit codes: 0 watched to its end, 1 error, 2 usage, 3 some of several failed, 4 not found,
/// 5 cut off, try later, 10 refused, 12 key or identity, 13 integrity, 130 interrupted.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Stream {
    #[command(flatten)]
    asker: Asker,
    /// The contact's folder whose hooks decide
    #[arg(long, value_name = "NAME", default_value = CHAT)]
    folder: String,
    /// What it is called [default: the name of the file, or stream]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Drop what a contact has no room for, instead of waiting
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    limit: Limit,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The contacts who are to watch
    #[arg(required = true, value_name = "PEER", add = ArgValueCompleter::new(files_and_targets))]
    peers: Vec<String>,
}

impl Stream {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let user = self.asker.user()?;
        let name = self.name.clone().unwrap_or_else(|| {
            let name = self.file.file_name().and_then(|name| name.to_str());
            match is_stdin(&self.file) {
                true => "stream".to_owned(),
                false => name.unwrap_or("stream").to_owned(),
            }
        });
        let pace = self.limit.pace();
        let mut receivers = Vec::new();
        for peer in &self.peers {
            let (peer, folder) = peer.split_once(':').unwrap_or((peer, &self.folder));
            let folder = if folder.is_empty() { CHAT } else { folder };
            let (peer, folder) = (user_name(peer)?, folder_name(folder)?);
            let parties = (user.name().as_str(), peer.as_str());
            // Each attempt gets its own id.
            let meta = Meta::of_stream(parties, folder.as_str(), &name, TransferId([0; 16]));
            let route = Route::to(&user, peer.as_str(), self.asker.server())?;
            receivers.push((route.paced(pace.clone()), meta));
        }
        let input: Box<dyn Read + Send> = match is_stdin(&self.file) {
            true => Box::new(stdin()?),
            false => Box::new(open(&self.file)?),
        };
        let overflow = match self.live {
            true => Overflow::Drop,
            false => Overflow::Wait,
        };
        let telling = Telling {
            json,
            quiet: self.quiet,
            no_progress: self.no_progress,
            advice: "the rest was not sent",
        };
        broadcast::run(Broadcast::new(receivers, overflow), input, &telling).await
    }
}

/// Whether it means standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens what is to be read once: a pipe or a device will do.
fn open(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    match file.metadata() {
        Ok(about) if about.is_dir() => {
            let sentence = format!("{} is a directory: name a file", path.display());
            Err(Error::new(Code::Usage, sentence))
        }
        Ok(_) => Ok(file),
        Err(e) => Err(Error::io("open", path, &e)),
    }
}

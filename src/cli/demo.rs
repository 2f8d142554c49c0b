use std::{
    fmt, fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use clap::Args;
use tokio::{sync::watch, task};

use super::output;
use crate::{
    client::{self, Route},
    crypto::keys::DEFAULT_BITS,
    error::{Code, Error, printable},
    event::Run,
    hooks::bundled,
    json::Value,
    meta::Meta,
    observer::Observer,
    root::{Root, RootError, meta_file, name::Name, user::User},
    server::{self, Server},
    transfer::send::send_job::SendJob,
    transport::{self, Address, Listener, Listening},
};

/// Demonstrate everything: two people, a server, real files, every step, every hook
///
/// Creates a root in the temporary directory, starts a server on a free port of the
/// loopback interface, and leaves everything there for you to explore.
#[derive(Debug, Args)]
pub struct Demo {}

/// Prints for people or for programs.
#[derive(Clone, Copy)]
struct Voice {
    json: bool,
}

impl Voice {
    /// A line for people; programs read objects.
    fn line(self, text: impl fmt::Display) {
        if !self.json {
            output::line(text);
        }
    }

    /// An object for programs; the same in words for people.
    fn say(self, words: impl fmt::Display, fields: &[(&str, Value)]) {
        if self.json {
            output::object(fields);
        } else {
            output::line(words);
        }
    }
}

const SENDER: &str = "zhenqiang";
const RECEIVER: &str = "roland-frei";

/// The configuration of the example folder that the demo sends a picture into.
const PHOTO: &str = include_str!("../../examples/hooks/album/m2y.config");
const ALBUM: &str = include_str!("../../examples/hooks/album/album.rhai");

const BACKUP: &str = "\
[OnMeta]
checkPermission.rhai
[permission]
zhenqiang = always
";

const DIARY: &str = "\
[OnMeta]
checkPermission.rhai
[permission]
zhenqiang = no
";

impl Demo {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let voice = Voice { json };
        let begun = Instant::now();
        let path = tempfile::Builder::new()
            .prefix("m2y-demo-")
            .tempdir()
            .map_err(|e| cannot("make a temporary directory", &e))?
            .keep();
        let at = path.display().to_string();
        voice.say(
            format_args!("A root in {at}"),
            &[("status", "root".into()), ("root", at.as_str().into())],
        );
        let root = {
            let path = path.clone();
            task::spawn_blocking(move || people(&path))
                .await
                .map_err(|_| Error::new(Code::Failed, "the demo failed"))??
        };
        voice.line(format_args!(
            "Two people, {SENDER} and {RECEIVER}, who have each other's public key ({:.1} s)",
            begun.elapsed().as_secs_f64()
        ));

        let (shutdown, going_down) = watch::channel(false);
        let show = Arc::new(Show {
            voice,
            steps: AtomicBool::new(false),
        });
        let server =
            Server::new(&root, &root.settings()?)?.observed(Arc::new(Side("server", show.clone())));
        server.start_folders().await?;
        let listener = transport::listen(&Address::any_local_port(), &Listening::plain()).await?;
        let address = listener.address().map_err(|e| cannot("listen", &e))?;
        let address = address.to_string();
        voice.say(
            format_args!("A server on {address}"),
            &[
                ("status", "listening".into()),
                ("address", address.as_str().into()),
            ],
        );
        let serving = tokio::spawn(server::run(listener, server, going_down));

        let scene = Scene {
            root: &root,
            address: &address,
            show: &show,
        };
        scene.play().await?;

        let _ = shutdown.send(true);
        let _ = serving.await;
        let seconds = begun.elapsed().as_secs_f64();
        voice.say(
            format_args!(
                "
Done in {seconds:.1} s. Everything is still there for you to explore:
  {at}/user/{RECEIVER}/photo/       what arrived, and m2y.config
  {at}/user/{RECEIVER}/inbox.log    what notifyUser.rhai wrote
Next, in two terminals (edit album.rhai or m2y.config in between):
  m2y serve --root {at}
  m2y send --root {at} --server 127.0.0.1:5000 --from {SENDER} --to {RECEIVER} --folder photo FILE"
            ),
            &[
                ("status", "done".into()),
                ("root", at.as_str().into()),
                ("seconds", seconds.into()),
            ],
        );
        Ok(())
    }
}

/// Makes the root, both users with keys, folders and contacts.
fn people(path: &Path) -> Result<Root, Error> {
    let (root, _) = Root::init(path, bundled::ALL)?;
    // Searching for primes is what takes time, so both searches run at once.
    let make = |name: &str, realname: &str| {
        let profile = format!(r#"{{"username": "{name}", "realname": "{realname}"}}"#);
        User::create(&root, name, profile.as_bytes(), DEFAULT_BITS).map(|created| created.user)
    };
    let (sender, receiver) = std::thread::scope(|scope| {
        let other = scope.spawn(|| make(SENDER, "Zhen Qiang"));
        let receiver = make(RECEIVER, "Roland Frei");
        let sender = other
            .join()
            .map_err(|_| Error::new(Code::Failed, "the demo failed"))?;
        Ok::<_, Error>((sender?, receiver?))
    })?;
    for (user, other) in [(&sender, &receiver), (&receiver, &sender)] {
        let card = other.card(None, None)?;
        user.add_contact(&card.name, &card.key, false)?;
    }
    for (name, config) in [("photo", PHOTO), ("backup", BACKUP), ("diary", DIARY)] {
        let name = Name::folder(name).map_err(RootError::from)?;
        let folder = receiver.create_folder(&name)?;
        write(&folder.path_of("m2y.config"), config.as_bytes())?;
        if config == PHOTO {
            write(&folder.path_of("album.rhai"), ALBUM.as_bytes())?;
        }
        sender.outbox(&name)?;
    }
    Ok(root)
}

struct Scene<'a> {
    root: &'a Root,
    address: &'a str,
    show: &'a Arc<Show>,
}

impl Scene<'_> {
    async fn play(&self) -> Result<(), Error> {
        let photos = self.root.path().join(format!("user/{SENDER}/photo"));
        let picture = photos.join("myfoto.png");
        write(&picture, &draw()?)?;

        self.title("A picture, with every step of the sequence");
        self.show.steps.store(true, Ordering::Relaxed);
        let meta = self.send("photo", &picture).await?.map_err(unexpected)?;
        let stem = format!("{SENDER}_{}", meta.datetime);
        let arrived = self
            .root
            .path()
            .join(format!("user/{RECEIVER}/photo/{stem}.data"));
        same(&picture, &arrived)?;
        let album = meta.extra.get("album").and_then(|a| a.as_str());
        self.show.voice.line(format_args!(
            "  arrived byte for byte as photo/{stem}.data; album.rhai wrote album = {:?}",
            album.unwrap_or_default()
        ));

        self.title("64 MiB, to see how fast");
        self.show.steps.store(false, Ordering::Relaxed);
        let large = self
            .root
            .path()
            .join(format!("user/{SENDER}/backup/backup.bin"));
        noise(&large, 64 << 20)?;
        self.send("backup", &large).await?.map_err(unexpected)?;

        self.title("Into a folder whose [permission] says: zhenqiang = no");
        self.show.steps.store(true, Ordering::Relaxed);
        match self.send("diary", &picture).await? {
            Ok(_) => Err(Error::new(
                Code::Failed,
                "it was not refused, and should be",
            )),
            Err(error) if error.code == Code::Refused => {
                self.show.voice.line(format_args!(
                    "  refused before a byte of it was taken: {error}; its .meta is .failed now"
                ));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn title(&self, text: &str) {
        self.show.voice.line(format_args!("\n{text}"));
    }

    /// Sends a file; the inner result is the receiver's.
    async fn send(&self, folder: &str, file: &Path) -> Result<Result<Meta, Error>, Error> {
        let dir = self.root.path().join(format!("user/{SENDER}/{folder}"));
        let meta = Meta::new(SENDER, RECEIVER, folder, "");
        let path: PathBuf = meta_file::write(&dir, file, meta)?;
        let out = SendJob::open(&path)?;
        let route = Route::find(Some(self.root.path()), Some(self.address), &out)?;
        let side = Side("client", self.show.clone());
        let begun = Instant::now();
        match client::deliver(&route, &out, &side).await {
            Ok(meta) => {
                let took = begun.elapsed();
                let done = out.done(&meta)?;
                self.show.voice.say(
                    format_args!("  {}", output::speed(out.len(), took)),
                    &output::sent(&done, &meta, (out.len(), out.resumed()), took),
                );
                Ok(Ok(meta))
            }
            Err(error) => {
                let failed = out.failed(&error)?;
                if self.show.voice.json {
                    output::object(&output::failed(&failed, &error));
                }
                Ok(Err(error))
            }
        }
    }
}

/// What is shown right now.
struct Show {
    voice: Voice,
    /// Whether people see every step; programs always do.
    steps: AtomicBool,
}

/// One side of the sequence, as the demo shows it.
struct Side(&'static str, Arc<Show>);

impl Observer for Side {
    fn step(&self, number: u8, what: fmt::Arguments<'_>) {
        let Self(side, show) = self;
        if show.voice.json || show.steps.load(Ordering::Relaxed) {
            show.voice.say(
                format_args!("  {number:>2}. {side:6}  {what}"),
                &[
                    ("status", "step".into()),
                    ("number", number.into()),
                    ("side", (*side).into()),
                    ("what", what.to_string().into()),
                ],
            );
        }
    }

    fn hook(&self, run: &Run) {
        let (verdict, words) = run.outcome.words();
        let colon = if words.is_empty() { "" } else { ": " };
        let micros = u64::try_from(run.took.as_micros()).unwrap_or(u64::MAX);
        self.1.voice.say(
            format_args!(
                "      hook    [{}] {} {verdict}{colon}{}, {micros} µs",
                run.event,
                run.script,
                printable(words, 80),
            ),
            &[
                ("status", "hook".into()),
                ("event", run.event.to_string().into()),
                ("script", run.script.to_string().into()),
                ("verdict", verdict.into()),
                ("words", words.into()),
                ("microseconds", micros.into()),
            ],
        );
    }
}

/// A real picture: a Julia set, 640 by 400, in PNG.
fn draw() -> Result<Vec<u8>, Error> {
    const WIDTH: u32 = 640;
    const HEIGHT: u32 = 400;
    let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let mut re = f64::from(x) / 200.0 - 1.6;
            let mut im = f64::from(y) / 200.0 - 1.0;
            let mut steps = 0_u8;
            while re * re + im * im < 4.0 && steps < 250 {
                (re, im) = (re * re - im * im - 0.79, 2.0 * re * im + 0.15);
                steps += 1;
            }
            pixels.extend([steps, steps.wrapping_mul(5), steps.wrapping_mul(11)]);
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels))
        .map_err(|e| Error::new(Code::Failed, format!("cannot draw: {e}")))?;
    Ok(bytes)
}

/// A file of bytes that do not compress.
fn noise(path: &Path, len: u64) -> Result<(), Error> {
    let wrong = |e: &dyn fmt::Display| cannot("write the large file", e);
    let mut file = fs::File::create(path).map_err(|e| wrong(&e))?;
    let mut block = vec![0; 1 << 20];
    getrandom::fill(&mut block).map_err(|e| wrong(&e))?;
    for number in 0..len >> 20 {
        // Each block is different, without drawing 64 MiB of randomness.
        for (byte, salt) in block.iter_mut().zip(number.to_be_bytes()) {
            *byte ^= salt;
        }
        file.write_all(&block).map_err(|e| wrong(&e))?;
    }
    Ok(())
}

fn same(a: &Path, b: &Path) -> Result<(), Error> {
    let read = |path: &Path| fs::read(path).map_err(|e| cannot("read what arrived", &e));
    if read(a)? == read(b)? {
        Ok(())
    } else {
        Err(Error::new(
            Code::Integrity,
            "the file that arrived differs from the one sent",
        ))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|e| cannot(&format!("write {}", path.display()), &e))
}

fn cannot(what: &str, error: &dyn fmt::Display) -> Error {
    Error::new(Code::Failed, format!("cannot {what}: {error}"))
}

fn unexpected(error: Error) -> Error {
    error.within("the demo expected this file to arrive")
}

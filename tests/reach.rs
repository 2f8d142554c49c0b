//! How a server is reached: TLS, QUIC, and several addresses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;
mod servers;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{M2Y, OPEN, ROLAND, World, name, noise, said, terminate};

/// A server with several addresses, killed when this is dropped.
struct Serving {
    child: Child,
    _said: BufReader<ChildStdout>,
    addresses: Vec<String>,
}

impl Serving {
    fn on(world: &World, listens: &[&str]) -> Self {
        let mut child = Command::new(M2Y)
            .arg("serve")
            .args(listens.iter().flat_map(|listen| ["--listen", listen]))
            .arg("--root")
            .arg(world.there.path())
            .envs(trusting(world))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let addresses = listens.iter().map(|_| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            let address = line.trim().strip_prefix("listening on ");
            address.expect(&line).to_owned()
        });
        Self {
            addresses: addresses.collect(),
            child,
            _said: said,
        }
    }

    fn stop(mut self) {
        terminate(&self.child);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program's environment in which only the authority of the tests is trusted.
fn trusting(world: &World) -> Vec<(&'static str, std::path::PathBuf)> {
    let path = world.dir.path().join("authority.pem");
    fs::write(&path, servers::authority_pem(servers::AUTHORITY)).unwrap();
    vec![
        ("SSL_CERT_FILE", path),
        ("SSL_CERT_DIR", world.dir.path().join("nothing-here")),
    ]
}

fn send(world: &World, address: &str, file: &Path) -> Output {
    Command::new(M2Y)
        .args(["send", "--server", address, "--root"])
        .arg(world.here.path())
        .arg(world.meta("photo", file))
        .envs(trusting(world))
        .output()
        .unwrap()
}

fn bytes_there(world: &World) -> Vec<Vec<u8>> {
    let arrived = world.arrived(".data");
    let read = |file: &String| fs::read(world.photo().join(file)).unwrap();
    arrived.iter().map(read).collect()
}

/// The address of a port on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The server's certificate for these hosts.
fn certified(world: &World, hosts: &[&str], is_expired: bool) {
    let pem = servers::certificate_pem(hosts, is_expired);
    let path = world.there.path().join("certificate.pem");
    fs::write(&path, pem).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let ini = world.there.path().join("m2y.ini");
    fs::write(ini, "[tls]\ncertificate = certificate.pem\n").unwrap();
}

#[test]
fn one_port_takes_plain_sessions_and_tls() {
    let world = World::new(OPEN);
    let serving = Serving::on(&world, &["tls://127.0.0.1:0"]);
    let tls = &serving.addresses[0];
    assert!(tls.contains("#sha256="), "{tls}");
    let plain = tls.strip_prefix("tls://").unwrap();
    let plain = plain.split('#').next().unwrap();
    let file = world.file("large.bin", &noise(3_000_000));
    for address in [tls.as_str(), plain] {
        let output = send(&world, address, &file);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(bytes_there(&world), vec![noise(3_000_000); 2]);
    serving.stop();
}

#[cfg(feature = "aws-lc")]
#[test]
fn a_server_listens_on_several_addresses_and_quic_is_one_of_them() {
    let world = World::new(&format!("{OPEN}[share]\nzhenqiang = list get\n"));
    let serving = Serving::on(&world, &["127.0.0.1:0", "quic://127.0.0.1:0"]);
    assert!(serving.addresses[1].starts_with("quic://127.0.0.1:"));
    for address in &serving.addresses {
        let bytes = noise(5_000_000);
        let output = send(&world, address, &world.file("large.bin", &bytes));
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(bytes_there(&world), vec![noise(5_000_000); 2]);
    // And back.
    let output = Command::new(M2Y)
        .args([
            "get",
            "-o",
            "back",
            "--server",
            &serving.addresses[1],
            "--root",
        ])
        .arg(world.here.path())
        .arg(format!("{ROLAND}:photo/*.data"))
        .current_dir(world.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let back = world.dir.path().join("back");
    let got = common::names(&back, ".data");
    assert_eq!(got.len(), 2);
    for file in got {
        assert!(fs::read(back.join(file)).unwrap() == noise(5_000_000));
    }
    serving.stop();
}

#[test]
fn the_certificate_of_a_server_is_made_once_and_only_its_owner_can_read_it() {
    let world = World::new(OPEN);
    let pin = || {
        let serving = Serving::on(&world, &["tls://127.0.0.1:0"]);
        let (_, pin) = serving.addresses[0].split_once('#').unwrap();
        pin.to_owned()
    };
    let first = pin();
    assert_eq!(pin(), first);
    let path = world.there.path().join("tls.pem");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A key that everybody could read is not used.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let output = Command::new(M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains("chmod o= "), "{}", said(&output));
}

/// What a client says of a server that it must not trust. Nothing arrives there.
fn refused(world: &World, address: &str, words: &str) {
    let output = send(world, address, &world.file("secret.txt", b"secret"));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(12), "{text}");
    assert!(text.contains(words), "{text}");
    assert_eq!(bytes_there(world), Vec::<Vec<u8>>::new());
}

#[test]
fn a_certificate_that_is_not_the_one_of_the_address_is_refused() {
    for scheme in schemes() {
        let world = World::new(OPEN);
        let serving = Serving::on(&world, &[&format!("{scheme}127.0.0.1:0")]);
        let (address, _) = serving.addresses[0].split_once('#').unwrap();
        let other = format!("{address}#sha256={}", "0a".repeat(32));
        refused(&world, &other, "not the one with the sha256");
        // Without a pin, only an authority counts.
        refused(&world, address, "no authority");
    }
}

/// The transports that have certificates.
fn schemes() -> &'static [&'static str] {
    match cfg!(feature = "aws-lc") {
        true => &["tls://", "quic://"],
        false => &["tls://"],
    }
}

#[test]
fn a_certificate_of_an_authority_counts_for_its_names_and_its_time() {
    for scheme in schemes() {
        let world = World::new(OPEN);
        certified(&world, &["localhost"], false);
        let serving = Serving::on(&world, &[&format!("{scheme}127.0.0.1:0")]);
        let by_number = serving.addresses[0].clone();
        assert!(!by_number.contains('#'), "others vouch for it: {by_number}");
        refused(
            &world,
            &by_number,
            "for another name (DnsName(\"localhost\"))",
        );
        let by_name = by_number.replace("127.0.0.1", "localhost");
        let output = send(&world, &by_name, &world.file("a.txt", b"a"));
        assert!(output.status.success(), "{}", said(&output));
        serving.stop();

        let world = World::new(OPEN);
        certified(&world, &["localhost"], true);
        let serving = Serving::on(&world, &[&format!("{scheme}127.0.0.1:0")]);
        // The server knows that nobody vouches for it any more, and prints the pin.
        let (address, _) = serving.addresses[0].split_once('#').unwrap();
        let by_name = address.replace("127.0.0.1", "localhost");
        refused(&world, &by_name, "has expired");
        // The pin of a certificate does not make it younger.
        let text = fs::read(world.there.path().join("certificate.pem")).unwrap();
        let pinned = format!("{by_name}#{}", pin(&text));
        refused(&world, &pinned, "has expired");
    }
}

#[test]
fn a_certificate_that_openssl_made_is_known_by_its_pin() {
    for scheme in schemes() {
        let world = World::new(OPEN);
        certified(&world, &["localhost"], false);
        let path = world.there.path().join("certificate.pem");
        let pem = servers::self_made_pem();
        fs::write(path, &pem).unwrap();
        let serving = Serving::on(&world, &[&format!("{scheme}127.0.0.1:0")]);
        let address = &serving.addresses[0];
        assert!(
            address.ends_with(&pin(pem.as_bytes()).to_string()),
            "{address}"
        );
        let output = send(&world, address, &world.file("a.txt", b"a"));
        assert!(output.status.success(), "{}", said(&output));
    }
}

fn pin(pem: &[u8]) -> m2y::transport::Pin {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    m2y::transport::Pin::of(&CertificateDer::from_pem_slice(pem).unwrap())
}

#[test]
fn of_several_addresses_the_first_that_answers_is_used() {
    let world = World::new(OPEN);
    let serving = Serving::on(&world, &["tls://127.0.0.1:0"]);
    // One that refuses, and one that takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = format!("tls://{}", silent.local_addr().unwrap());
    let addresses = format!("{}, {silent}, {}", nobody(), serving.addresses[0]);
    let list = addresses.parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &list).unwrap();
    let begun = Instant::now();
    let output = Command::new(M2Y)
        .args(["send", "--root"])
        .arg(world.here.path())
        .arg(world.meta("photo", &world.file("a.txt", b"a")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(bytes_there(&world), [b"a"]);
}

#[test]
fn if_no_address_answers_each_is_named_with_its_reason() {
    let world = World::new(OPEN);
    let (first, second) = (nobody(), format!("tls://{}", nobody()));
    let output = send(
        &world,
        &format!("{first},{second}"),
        &world.file("a.txt", b"a"),
    );
    let text = said(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    for address in [&first, &second] {
        let words = format!("{address}: connection refused (0.0 s)");
        assert!(text.contains(&words), "{text}");
    }
}

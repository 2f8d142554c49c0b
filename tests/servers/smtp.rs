//! An SMTP server: mailin speaks, a thread moves the bytes.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use mailin::{Action, AuthMechanism, Handler, Response, Session, SessionBuilder, response};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub const USERNAME: &str = "m2y";
pub const PASSWORD: &str = "a word that nobody knows";

/// How the server behaves.
#[derive(Clone, Default)]
pub struct Ways {
    /// With a certificate.
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS from the first byte; otherwise by STARTTLS.
    pub wrapped: bool,
    /// Said in place of a greeting.
    pub greeting: Option<&'static str>,
    /// Said to a recipient.
    pub recipient: Option<(u16, &'static str)>,
    /// Wants a login.
    pub login: bool,
    /// Says nothing to QUIT, and goes on listening.
    pub stays: bool,
    /// Sent in one piece behind the answer to STARTTLS, in plain text.
    pub forged: Option<&'static str>,
}

/// One e-mail as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub data: Vec<u8>,
    pub secret: bool,
    pub login: bool,
}

pub struct Smtp {
    pub address: SocketAddr,
    arrived: Arc<Mutex<Vec<Mail>>>,
}

impl Smtp {
    pub fn start(ways: Ways) -> Self {
        Self::start_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), ways)
    }

    pub fn start_on(listener: TcpListener, ways: Ways) -> Self {
        let address = listener.local_addr().unwrap();
        let arrived = Arc::<Mutex<Vec<Mail>>>::default();
        let shelf = Arc::clone(&arrived);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away is none of the server's business.
                let _ = serve(stream.unwrap(), &ways, &shelf);
            }
        });
        Self { address, arrived }
    }

    pub fn arrived(&self) -> Vec<Mail> {
        self.arrived.lock().unwrap().clone()
    }
}

struct Clerk {
    ways: Ways,
    mail: Mail,
    shelf: Arc<Mutex<Vec<Mail>>>,
    secret: Arc<AtomicBool>,
    logged_in: bool,
}

impl Handler for &mut Clerk {
    fn rcpt(&mut self, _: &str) -> Response {
        match self.ways.recipient {
            Some((code, words)) => Response::custom(code, words.to_owned()),
            None => response::OK,
        }
    }

    fn data_start(&mut self, _: &str, from: &str, _: bool, to: &[String]) -> Response {
        self.mail = Mail {
            from: from.to_owned(),
            to: to.to_vec(),
            secret: self.secret.load(Ordering::SeqCst),
            login: self.logged_in,
            ..Mail::default()
        };
        response::OK
    }

    fn data(&mut self, buf: &[u8]) -> io::Result<()> {
        self.mail.data.extend_from_slice(buf);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let mail = std::mem::take(&mut self.mail);
        self.shelf.lock().unwrap().push(mail);
        response::OK
    }

    fn auth_plain(&mut self, _: &str, username: &str, password: &str) -> Response {
        self.logged_in = (username, password) == (USERNAME, PASSWORD);
        if self.logged_in {
            response::AUTH_OK
        } else {
            // A server that repeats what it heard.
            Response::custom(535, format!("no, {password} is wrong"))
        }
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

fn serve(stream: TcpStream, ways: &Ways, shelf: &Arc<Mutex<Vec<Mail>>>) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip();
    let plain = stream.try_clone()?;
    let encrypted = Arc::new(AtomicBool::new(ways.wrapped));
    let mut clerk = Clerk {
        ways: ways.clone(),
        mail: Mail::default(),
        shelf: Arc::clone(shelf),
        secret: Arc::clone(&encrypted),
        logged_in: false,
    };
    let secure = |stream: TcpStream| -> Box<dyn Wire> {
        let config = ways.tls.clone().unwrap();
        Box::new(StreamOwned::new(
            ServerConnection::new(config).unwrap(),
            stream,
        ))
    };
    let mut builder = SessionBuilder::new("mail.example.org");
    if ways.tls.is_some() && !ways.wrapped {
        builder.enable_start_tls();
    }
    if ways.login {
        builder.enable_auth(AuthMechanism::Plain);
        builder.insecure_enable_plaintext_auth();
    }
    let wire: Box<dyn Wire> = if ways.wrapped {
        secure(stream)
    } else {
        Box::new(stream)
    };
    let mut wire = BufReader::new(wire);
    let mut session: Session<&mut Clerk> = builder.build(peer, &mut clerk);
    let greeting = match ways.greeting {
        Some(words) => format!("{words}\r\n").into_bytes(),
        None => session.greeting().buffer()?,
    };
    wire.get_mut().write_all(&greeting)?;
    loop {
        let mut line = Vec::new();
        if wire.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let response = session.process(&line);
        if ways.stays && response.action == Action::Close {
            continue;
        }
        let mut bytes = response.buffer()?;
        match response.action {
            Action::NoReply => {}
            Action::Reply => wire.get_mut().write_all(&bytes)?,
            Action::Close => return wire.get_mut().write_all(&bytes),
            Action::UpgradeTls => {
                assert!(!encrypted.swap(true, Ordering::SeqCst));
                bytes.extend_from_slice(ways.forged.unwrap_or_default().as_bytes());
                wire.get_mut().write_all(&bytes)?;
                wire = BufReader::new(secure(plain.try_clone()?));
                session.tls_active();
            }
        }
    }
}

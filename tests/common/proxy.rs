//! A proxy before an S3 server, which answers as a server with a fault does.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another status, with the seconds after which it makes sense to ask again.
    Status(u16, Option<u64>),
    /// Another status, with the code of an error of S3.
    Refusal(u16, &'static str),
    /// The body ends in the middle, and so does the connection.
    Early,
    /// There is none, and the connection stays open.
    Silence,
    /// One byte a second.
    Trickle,
    /// A bit of the body is another one.
    Flip,
    /// The server does what was asked, and its answer is lost.
    Lost,
    /// The list is empty.
    EmptyList,
}

/// Which requests have a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Reads,
    Writes,
    Lists,
    Removes,
    /// Requests that make an object of the parts of an upload.
    Completions,
}

#[derive(Default)]
struct State {
    fault: Option<(Fault, Of)>,
    /// How many requests have it.
    left: usize,
    /// How many had it.
    seen: usize,
}

/// The proxy. It ends with the process.
pub struct Proxy {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// A proxy before the server of this URL.
    pub fn before(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, state) = (server.clone(), shared.clone());
                // A client that goes away is no error here.
                thread::spawn(move || drop(answer(client, &server, &state)));
            }
        });
        Self { endpoint, state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// So many requests of that kind have a fault from now on.
    pub fn break_next(&self, left: usize, fault: Fault, of: Of) {
        *self.lock() = State {
            fault: Some((fault, of)),
            left,
            seen: 0,
        };
    }

    /// All is well again. Returns how many requests had the fault.
    pub fn mend(&self) -> usize {
        std::mem::take(&mut *self.lock()).seen
    }
}

fn answer(mut client: TcpStream, server: &str, state: &Mutex<State>) -> io::Result<()> {
    let Some((head, body)) = request(&mut client)? else {
        return Ok(());
    };
    let is_list = head.contains("list-type=2");
    let of = match head.split(' ').next() {
        Some("GET") if is_list => Some(Of::Lists),
        Some("GET") => Some(Of::Reads),
        Some("POST") if head.contains("uploadId=") => Some(Of::Completions),
        Some("PUT" | "POST") => Some(Of::Writes),
        Some("DELETE") => Some(Of::Removes),
        _ => None,
    };
    let fault = {
        let mut state = state.lock().unwrap();
        let fault = state.fault.filter(|(_, which)| Some(*which) == of);
        let fault = fault.filter(|_| state.left > 0);
        if fault.is_some() {
            state.left -= 1;
            state.seen += 1;
        }
        fault.map(|(fault, _)| fault)
    };
    match fault {
        Some(Fault::Silence) => {
            // Until the client has enough of it.
            let _ = client.read(&mut [0]);
            return Ok(());
        }
        Some(Fault::Status(status, after)) => {
            let after = after.map_or_else(String::new, |s| format!("Retry-After: {s}\r\n"));
            return say(
                &mut client,
                &format!("{status} Wrong\r\n{after}"),
                &error("Wrong"),
            );
        }
        Some(Fault::Refusal(status, code)) => {
            return say(&mut client, &format!("{status} Wrong\r\n"), &error(code));
        }
        Some(Fault::EmptyList) => {
            let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            return say(&mut client, "200 OK\r\n", empty);
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect(server)?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(&body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = body.map_or(answer.len(), |at| at + 4);
    match fault {
        Some(Fault::Lost) => Ok(()),
        Some(Fault::Early) => client.write_all(&answer[..body + (answer.len() - body) / 2]),
        Some(Fault::Flip) => {
            let at = body + (answer.len() - body) / 2;
            if let Some(byte) = answer.get_mut(at) {
                *byte ^= 1;
            }
            client.write_all(&answer)
        }
        Some(Fault::Trickle) => {
            for byte in answer {
                client.write_all(&[byte])?;
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        }
        _ => client.write_all(&answer),
    }
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>not now</Message></Error>")
}

fn say(client: &mut TcpStream, head: &str, body: &str) -> io::Result<()> {
    let len = body.len();
    let answer = format!("HTTP/1.1 {head}Content-Length: {len}\r\nConnection: close\r\n\r\n{body}");
    client.write_all(answer.as_bytes())
}

/// The head and the body of a request; `None` if there is none.
fn request(client: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..read]);
        let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let mut body = bytes.split_off(at + 4);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let lower = head.to_ascii_lowercase();
        let len = lower.split("content-length:").nth(1);
        let len = len.and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let len: usize = len.unwrap_or(0);
        let had = body.len();
        body.resize(len.max(had), 0);
        client.read_exact(&mut body[had..])?;
        return Ok(Some((head, body)));
    }
}

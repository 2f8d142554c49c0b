//! Stands between a sender and a server.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A relay before a server that counts connections. `most` bytes go through each.
pub struct Relay {
    pub address: String,
    connections: Arc<AtomicU64>,
}

impl Relay {
    pub fn before(server: String, most: usize) -> Self {
        Self::between(server, most, usize::MAX)
    }

    /// A relay of which as much comes back through each connection.
    pub fn back(server: String, most: usize) -> Self {
        Self::between(server, usize::MAX, most)
    }

    fn between(server: String, there: usize, back: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&server).unwrap();
                let (c, s) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(&s, &c, back));
                thread::spawn(move || pass(&client, &server, there));
            }
        });
        Self {
            address,
            connections,
        }
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Passes so many bytes on, then ends the connection.
fn pass(mut from: &TcpStream, mut to: &TcpStream, most: usize) {
    use std::io::{Read, Write};
    let mut buffer = vec![0; 65_536];
    let mut left = most;
    while left > 0 {
        let room = left.min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Ok(0) | Err(_) => break,
            Ok(read) if to.write_all(&buffer[..read]).is_ok() => left -= read,
            Ok(_) => break,
        }
    }
    // What the other side has to say of these bytes still gets through.
    thread::sleep(Duration::from_millis(if left == 0 { 500 } else { 0 }));
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

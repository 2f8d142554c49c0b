//! m2y moves files between people, end-to-end encrypted, and lets the owner of each
//! folder decide in a small Rhai script what happens at every event.
//!
//! # How a file travels through this crate
//!
//! A person types `m2y send photo.meta`. [`cli`] parses that and calls [`client`],
//! which reads keys and contact from the [`root`], seals the [`meta`] into an
//! opening and sends it over a link that [`transport`] dialled. On the other side [`server`] has
//! accepted the link and handed it to a task of its own. The task reads the opening, and uses
//! [`wire`] to check the signature before it uses any private key and before it writes anything.
//!
//! From there on a [`session`] takes over, the same engine on both sides: its pump moves records,
//! and two roles act on them, [`session::asker`] for the client and [`session::answerer`] for the
//! server. [`transfer`] is what a file goes through. [`transfer::receive::decision`] takes all
//! metas that came in one buffer, names the files, makes an [`event`] of each and fires them at the
//! [`hooks`] of the folder, which answer with verdicts. If none objects, the sender gets a fresh
//! key for the file. [`transfer::send::blocks`] reads and seals its blocks; the other side opens
//! them and appends them to a hidden file in a [`store`]. If the transfer breaks off, the partial
//! file waits there, and the next attempt resumes behind it. Files completed at the same time
//! become durable together ([`transfer::receive::commit`]); then they get their final names,
//! `[OnReceived]` runs, and the ACKs go back: nothing that was acknowledged is ever lost, and
//! nothing unauthenticated is ever acted on.
//!
//! In the other direction, a contact asks: [`client::peer`] opens a session without a file.
//! [`files::service`] answers from the [`files::view`] that the contact has of a user's files, and
//! never from anything outside it; files go out as they come in, and a
//! [`transfer::receive::download`] puts them in their place. A file that a contact puts somewhere
//! ([`client::put`]) arrives like any other, and if its hooks leave it where it was, it gets the
//! path that its sender wants ([`store::placement`]).
//!
//! Two people get each other's keys by [`pairing`]: one shows a code, the other types it, and a server
//! between them carries the messages. Where neither can reach the other, a server can be a [`relay`]:
//! its members attend, and it joins those who dial them with them. If the receiver is away,
//! [`client::letters`] leaves the file at the relay, sealed for a key that the receiver published there;
//! the receiver's [`client::mailbox`] fetches it, and from its meta on it goes the way of every other
//! file. What became of it comes back as a receipt ([`client::receipts`]).
//!
//! Besides handling connections, a server does three more things. It watches the folders whose
//! scripts ask for that and fires an event for every file that appears, changes or disappears, and
//! at the times of a schedule. A dispatcher keeps what has to happen in the [`journal`] until it
//! has happened: hooks for files that are safe, and the e-mails, webhooks and files for others that
//! hooks ask for, which [`delivery`] hands over. And the outbox of the [`client`] sends the files
//! that wait in folders that send automatically.
//!
//! A message ([`client::chat`]) is a meta with a text and no bytes after it. Its receiver's hooks decide about
//! it like about a file; then the [journal] has it, and it is acknowledged; a moment later it is a line of its
//! folder's `messages.ndjson` for good ([`transfer::receive::message_committer`]).
//!
//! What has no size yet, standard input or a [stream], comes out of a [feed](transfer::send::feed) as it is
//! read, once for all receivers ([`client::broadcast`]). A stream ends at [viewers] instead of a store: a
//! program asks for it at the [console](control) of its server, and answers for its person.
//!
//! # The map
//!
//! The modules are listed in the order in which data flows. Each knows only those below it.
//!
//! | module | owns |
//! | --- | --- |
//! | [`cli`] | the commands, their help, what they print |
//! | [`guide`] | the guide for people, which `m2y guide` shows |
//! | [`client`] | opening a session as the side that asks, also with [oneself](client::owner); the queue of a route; the outbox; [messages](client::chat); letters and receipts; a contact's folder as a [member](client::member) of a store |
//! | [`server`] | connections, strangers and contacts; answering an opening; metrics; what it says of itself |
//! | [`control`] | the server's console: what programs on the same machine ask it, and have it do |
//! | [`relay`] | people who cannot reach each other: who attends, who calls, what is carried, and the letters for those who are away |
//! | [`pairing`] | becoming contacts by a code: the two sides, and the slots of the host between them |
//! | [`session`] | records both ways after the opening: the engine and its two roles |
//! | [`transfer`] | the transfer of one file: the sending and the receiving half |
//! | [`files`] | what a contact may see and change, and what users do in their own folders |
//! | [`hooks`] | scripts and programs, their limits, what they can call; the dispatcher, the watch over folders, schedules |
//! | [`delivery`] | e-mails, webhooks and requests of scripts: one attempt, and whether another makes sense |
//! | [`observer`] | what someone watching transfers is told |
//! | [`traffic`] | what is under way: sessions and transfers, which count for those who ask |
//! | [`viewers`] | who watches streams, and the way of their bytes from a session to them |
//! | [`event`] | what happened, what was decided: plain data |
//! | [`wire`] | bytes to values, pure; [the protocol](wire) is written down there, [how people become contacts](wire::pairing), and [how they leave letters](wire::letter) |
//! | [`store`] | where file contents are stored: the trait and its implementations |
//! | [`journal`] | what must not be forgotten: tasks, transfers, openings, what hooks were told |
//! | [`database`] | an SQLite file with one thread that writes it |
//! | [`root`] | the tree on disk: users, keys, contacts, folders, settings |
//! | [`transport`] | addresses, and links to and from them: TCP, TLS, QUIC |
//! | [`stream`] | bytes that are watched as they come, in place of a file |
//! | [`message`] | a text in place of a file |
//! | [`meta`] | the `.meta` document |
//! | [`json`] | JSON as strict as a checksum over it requires |
//! | [`crypto`] | keys, sealing, and the two back ends that do it |
//! | [`clock`] | the time of day |
//! | [`error`] | what people and peers may see of an error |

// In the order of the data; the empty lines keep rustfmt from sorting them.
pub mod cli;

pub mod guide;

pub mod client;

pub mod server;

pub mod control;

pub mod relay;

pub mod pairing;

pub mod session;

pub mod transfer;

pub mod files;

pub mod hooks;

pub mod delivery;

pub mod observer;

pub mod traffic;
pub mod viewers;

pub mod event;

pub mod wire;

pub mod store;

pub mod journal;

pub mod database;

pub mod root;

pub mod transport;

pub mod stream;

pub mod message;

pub mod meta;

pub mod json;

pub mod crypto;

pub mod clock;

pub mod error;

/// Counts what each thread holds, so that a script that grows too large is stopped, see
/// `hooks/call.rs`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

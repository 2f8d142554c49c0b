//! m2y moves files between people, end-to-end encrypted, and lets the owner of each
//! folder decide in a small Rhai script what happens at every event.
//!
//! # The way of a file through this crate
//!
//! A person types `m2y send photo.meta`. [`cli`] parses that and calls [`client`],
//! which reads keys and contact from the [`root`], seals the [`meta`] into an
//! opening and sends it over a link that [`transport`] dialled. On the other side
//! [`server`] has taken the link and left it to a task of its own. The task reads the
//! opening, and with [`wire`] it checks the signature before any private key works and
//! before anything is written.
//!
//! From there on a [`session`] leads, the same engine on both sides: its pump moves records,
//! and two roles act on them, [`session::asker`] for the client and [`session::answerer`] for
//! the server. What a file goes through is [`transfer`]. [`transfer::receive::decision`]
//! takes all metas that came in one buffer, gives the files names, makes an [`event`] of each
//! and fires them at the [`hooks`] of the folder, which answer with verdicts. If none
//! objects, the sender gets a fresh key for the file. Its blocks are read and sealed by
//! [`transfer::send::blocks`]; the other side opens them and appends them to a hidden file in
//! a [`store`]. What breaks off before the file is whole waits there, and the next attempt
//! resumes behind it. Files that are whole at the same time become durable together,
//! [`transfer::receive::commit`]; then they get their names, `[OnReceived]` runs, and the
//! ACKs go back: nothing that was acknowledged is ever lost, and nothing unauthenticated is
//! ever acted on.
//!
//! The other way, a contact asks: [`client::peer`] opens a session without a file.
//! [`files::service`] answers from the [`files::view`] that the contact has of a user's
//! files, and never from outside of it; files go out as they come in, and a
//! [`transfer::receive::download`] puts them in their place. What a contact puts somewhere,
//! [`client::put`], arrives like any other file, and when its hooks have had it and left it
//! where it was, it gets the path that its sender wants, [`store::placement`].
//!
//! Beside the connections a server has three more things to do. It watches the folders
//! whose scripts wait for that and fires an event for every file that appears, changes or
//! goes, and for the times of a schedule. A dispatcher keeps what has to happen in the
//! [`journal`] until it has happened: the hooks of files that are safe, and the e-mails,
//! webhooks and files for others that hooks ask for, which [`delivery`] hands over. And the
//! outbox of the [`client`] sends what waits in folders that send by themselves.
//!
//! # The map
//!
//! The modules stand in the order in which data flows. Each knows those below it and
//! none above.
//!
//! | module | owns |
//! | --- | --- |
//! | [`cli`] | the commands, their help, what they print |
//! | [`guide`] | the guide for people, which `m2y guide` shows |
//! | [`client`] | the opening of a session, from the side that asks; the queue of a route; the outbox |
//! | [`server`] | connections, strangers and contacts, the opening from the side that answers; metrics |
//! | [`session`] | records both ways after the opening: the engine and its two roles |
//! | [`transfer`] | the way of one file: its sending and its receiving half |
//! | [`files`] | what a contact may see and change |
//! | [`hooks`] | scripts and programs, their limits, what they can call; the dispatcher, the watch over folders, schedules |
//! | [`delivery`] | e-mails, webhooks and requests of scripts: one attempt, and whether another makes sense |
//! | [`observer`] | what somebody who watches transfers is told |
//! | [`event`] | what happened, what was decided: plain data |
//! | [`wire`] | bytes to values, pure; [the protocol](wire) is written down there, and [how people become contacts](wire::pairing) |
//! | [`store`] | where the contents of files rest: the trait, and what implements it |
//! | [`journal`] | what must not be forgotten: tasks, transfers, openings, what hooks were told of |
//! | [`root`] | the tree on disk: users, keys, contacts, folders, settings |
//! | [`transport`] | addresses, and links to and from them; TCP is the only kind |
//! | [`meta`] | the `.meta` document |
//! | [`json`] | JSON as strict as a checksum over it needs |
//! | [`crypto`] | keys, sealing, and the two back ends that do it |
//! | [`clock`] | the time of day |
//! | [`error`] | what people and peers may see of an error |

// In the order of the data; an empty line keeps each where it stands.
pub mod cli;

pub mod guide;

pub mod client;

pub mod server;

pub mod session;

pub mod transfer;

pub mod files;

pub mod hooks;

pub mod delivery;

pub mod observer;

pub mod event;

pub mod wire;

pub mod store;

pub mod journal;

pub mod root;

pub mod transport;

pub mod meta;

pub mod json;

pub mod crypto;

pub mod clock;

pub mod error;

/// Counts what each thread holds: by that a script that grows is stopped, see
/// `hooks/call.rs`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

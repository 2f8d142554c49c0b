//! A relay: where people meet who cannot reach each other.
//!
//! A member keeps one connection open to the relay, and *attends*. Somebody dials the relay as if it
//! were the member's server. The relay finds the member by the hash in the header, hands the opening
//! over, and the member decides; to let somebody in, it dials the relay and names the call. From then
//! on the relay carries bytes between the two, and what they say is an ordinary session, end to end.
//!
//! For a member who is away it keeps [`letters`], which it cannot read; [`post`] is what it answers to
//! those who leave and fetch them ([protocol](crate::wire::letter)).
//!
//! The [`hub`] knows who attends, and which calls wait. [`attendance`] is what relay and member say to
//! each other ([protocol](crate::wire::relay)); [`carrying`] joins two links.

pub mod arriving;
pub mod attendance;
pub mod carrying;
pub mod conversation;
pub mod hub;
pub mod letters;
pub mod post;

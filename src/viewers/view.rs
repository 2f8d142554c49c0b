//! Carries a stream's bytes from its session to its viewer.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{store::Sink, stream::WINDOW, wire::record::MAX_BODY};

/// How much more has to be taken before the sender hears of it.
const STEP: u64 = WINDOW / 4;

/// Bytes that are given out together, at most: fewer, larger pieces are faster.
pub const MAX_PIECE: usize = 4 * MAX_BODY;

/// Bytes of the length before a piece.
const LENGTH: usize = 4;

/// Some bytes of a stream, behind their number.
pub struct Piece {
    /// The number and the bytes.
    framed: Vec<u8>,
    /// How much of that is the number.
    head: usize,
    /// Whether a part of it was written before: nothing can be added.
    is_begun: bool,
}

impl Piece {
    fn new(bytes: &[u8]) -> Self {
        let mut framed = Vec::with_capacity(LENGTH + bytes.len());
        framed.extend_from_slice(&[0; LENGTH]);
        framed.extend_from_slice(bytes);
        Self {
            framed,
            head: LENGTH,
            is_begun: false,
        }
    }

    /// What is left of bytes of which so much was written.
    fn rest(frame: &[IoSlice<'_>], mut written: usize) -> Self {
        let mut framed = Vec::new();
        let head = LENGTH.saturating_sub(written);
        for part in frame {
            framed.extend_from_slice(part.get(written..).unwrap_or_default());
            written = written.saturating_sub(part.len());
        }
        Self {
            framed,
            head,
            is_begun: true,
        }
    }

    /// How many bytes they are.
    fn len(&self) -> usize {
        self.framed.len().saturating_sub(self.head)
    }

    /// Their number in 4 bytes, big-endian, and behind it the bytes; what was not written of that.
    pub fn framed(&mut self) -> &[u8] {
        let len = length(self.len());
        if !self.is_begun
            && let Some(length) = self.framed.first_chunk_mut()
        {
            *length = len;
        }
        &self.framed
    }
}

fn length(len: usize) -> [u8; LENGTH] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its sender has ended it, and all of it came.
    Whole,
    /// It was cut off, for this reason.
    Cut(String),
}

/// Told how many bytes were taken so far.
type Taken = Box<dyn Fn(u64) + Send>;

/// Writes what a viewer takes at once, and returns how much that was.
type Outlet = Box<dyn Fn(&[IoSlice<'_>]) -> io::Result<usize> + Send>;

/// Where the bytes of a stream go. Clones are the same one; if all are dropped, it was cut off.
#[derive(Clone)]
pub struct View(Arc<Open>);

/// The end at which a stream is watched.
pub struct Watching {
    flow: Arc<Flow>,
}

struct Open(Arc<Flow>);

#[derive(Default)]
struct Flow {
    state: Mutex<State>,
    /// Something came, or the end.
    came: Notify,
    /// Everything was taken, or nobody watches any more.
    over: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Bytes that were given out last, and are being written.
    given: u64,
    outlet: Option<Outlet>,
    /// Bytes that came.
    came: u64,
    /// Bytes that were taken.
    taken: u64,
    /// Bytes that were taken when the sender heard of it last.
    told: u64,
    tell: Option<Taken>,
    end: Option<End>,
    is_watched: bool,
    /// Whether it goes on if nobody watches.
    goes_on: bool,
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.taken += bytes;
        if !self.goes_on {
            self.tell_of(self.taken);
        }
    }

    /// Tells the sender that so many bytes were taken, if that is worth a record.
    fn tell_of(&mut self, bytes: u64) {
        if bytes.saturating_sub(self.told) >= STEP
            && let Some(tell) = &self.tell
        {
            tell(bytes);
            self.told = bytes;
        }
    }

    /// Adds to the last piece, as long as that is short: a stream of single bytes takes no more memory
    /// than any other.
    fn push(&mut self, piece: &[u8]) {
        match self.pieces.back_mut() {
            Some(last) if !last.is_begun && last.len() + piece.len() <= MAX_PIECE => {
                last.framed.extend_from_slice(piece);
            }
            _ => self.pieces.push_back(Piece::new(piece)),
        }
    }

    /// Writes pieces right away if nothing waits before them: a viewer that keeps pace costs neither
    /// a copy nor a change of threads. Returns how many of them need nothing more.
    fn write_through(&mut self, pieces: &[&[u8]]) -> usize {
        let is_next = self.is_watched && self.pieces.is_empty() && self.given == 0;
        let Some(outlet) = self.outlet.take_if(|_| is_next && self.end.is_none()) else {
            return 0;
        };
        let mut done = 0;
        for pieces in pieces.chunks(MAX_PIECE / MAX_BODY) {
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            if len == 0 {
                // A piece without bytes would look like the end.
                done += pieces.len();
                continue;
            }
            let head = length(len);
            let mut frame = vec![IoSlice::new(&head)];
            frame.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
            // If it fails, that shows again when what waits is written.
            let written = outlet(&frame).unwrap_or_default();
            if written == 0 {
                break;
            }
            done += pieces.len();
            self.came += len as u64;
            self.take(written.saturating_sub(LENGTH) as u64);
            if written < LENGTH + len {
                self.pieces.push_back(Piece::rest(&frame, written));
                break;
            }
        }
        self.outlet = Some(outlet);
        done
    }

    /// Nobody watches any more.
    fn leave(&mut self) {
        self.is_watched = false;
        self.pieces = VecDeque::new();
        self.outlet = None;
    }

    fn is_over(&self) -> bool {
        !self.is_watched || (self.end.is_some() && self.taken == self.came)
    }
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.came.notify_one();
        self.over.notify_waiters();
    }
}

impl View {
    /// A view, and the end at which it is watched.
    pub fn new() -> (Self, Watching) {
        let flow = Arc::new(Flow::default());
        flow.lock().is_watched = true;
        let watching = Watching { flow: flow.clone() };
        (Self(Arc::new(Open(flow))), watching)
    }

    /// A view that nobody watches: what comes counts as taken.
    pub fn unwatched() -> Self {
        let (view, _) = Self::new();
        view.goes_on();
        view
    }

    /// From now on it goes on if nobody watches any more.
    pub fn goes_on(&self) {
        self.0.0.lock().goes_on = true;
    }

    /// Tells this from now on how many bytes were taken.
    pub fn tells(&self, tell: impl Fn(u64) + Send + 'static) {
        self.0.0.lock().tell = Some(Box::new(tell));
    }

    /// It has ended. Only the first end counts.
    pub fn end(&self, end: End) {
        self.0.0.end(end);
    }

    /// Waits until everything was taken, or nobody watches any more. Returns whether everything
    /// was taken.
    pub async fn over(&self) -> bool {
        let flow = &self.0.0;
        loop {
            let over = flow.over.notified();
            {
                let state = flow.lock();
                if state.is_over() {
                    return state.taken == state.came;
                }
            }
            over.await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end(End::Cut("the connection was cut".to_owned()));
    }
}

impl Sink for View {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let written = state.write_through(pieces);
        let rest = pieces.iter().skip(written);
        for piece in rest.filter(|piece| !piece.is_empty()) {
            state.came += piece.len() as u64;
            let is_behind = state.came - state.taken > WINDOW + MAX_BODY as u64;
            match (state.is_watched, state.goes_on) {
                (true, false) if is_behind => {
                    let sentence = "more of the stream came than was allowed";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, sentence));
                }
                (true, true) if is_behind => {
                    let end =
                        End::Cut("it was watched too slowly, and is only recorded".to_owned());
                    state.end.get_or_insert(end);
                    state.leave();
                }
                (true, _) => state.push(piece),
                (false, true) => {}
                (false, false) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        if state.goes_on {
            // It is recorded: nobody has to have watched it.
            let came = state.came;
            state.tell_of(came);
        }
        if !state.pieces.is_empty() {
            self.0.0.came.notify_one();
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Watching {
    /// From now on, what comes is written by this if nothing waits to be given out: it must not
    /// wait, and returns how much was taken.
    pub fn writes_by(&self, outlet: impl Fn(&[IoSlice<'_>]) -> io::Result<usize> + Send + 'static) {
        self.flow.lock().outlet = Some(Box::new(outlet));
    }

    /// The next bytes; or how it ended. What was given out before counts as taken now.
    pub async fn next(&mut self) -> Result<Piece, End> {
        loop {
            {
                let mut state = self.flow.lock();
                let given = std::mem::take(&mut state.given);
                state.take(given);
                if let Some(piece) = state.pieces.pop_front() {
                    state.given = piece.len() as u64;
                    return Ok(piece);
                }
                if let Some(end) = state.end.clone() {
                    drop(state);
                    self.flow.over.notify_waiters();
                    return Err(end);
                }
            }
            self.flow.came.notified().await;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.flow.lock();
        state.leave();
        if !state.goes_on
            && let Some(tell) = &state.tell
        {
            // A sender that may not send hears of it only if it may: by what becomes of that.
            tell(state.came);
        }
        drop(state);
        self.flow.over.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_is_given_out_in_order_and_the_end_behind_it() {
        let (mut view, mut watching) = View::new();
        view.append(&[b"one", b"two"]).unwrap();
        assert_eq!(watching.next().await.unwrap().framed(), b"\0\0\0\x06onetwo");
        view.append(&[b"three"]).unwrap();
        view.end(End::Whole);
        assert_eq!(watching.next().await.unwrap().framed(), b"\0\0\0\x05three");
        assert_eq!(watching.next().await.err(), Some(End::Whole));
        assert!(view.over().await);
    }

    #[tokio::test]
    async fn a_viewer_that_takes_only_a_part_at_once_gets_the_rest_behind_it() {
        // The number of the first bytes, those bytes, and more of the next ones.
        for room in 0..=20 {
            let (mut view, mut watching) = View::new();
            let (to, left) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(room));
            let written = to.clone();
            let outlet = move |frame: &[IoSlice<'_>]| {
                let mut left = left.lock().unwrap();
                let all: Vec<u8> = frame.iter().flat_map(|part| part.to_vec()).collect();
                let taken = all.len().min(*left);
                *left -= taken;
                written.lock().unwrap().extend_from_slice(&all[..taken]);
                Ok(taken)
            };
            watching.writes_by(outlet);
            view.append(&[b"one", b"two"]).unwrap();
            view.append(&[b"three"]).unwrap();
            view.append(&[b"four"]).unwrap();
            view.append(&[b""]).unwrap();
            view.end(End::Whole);
            while let Ok(mut piece) = watching.next().await {
                to.lock().unwrap().extend_from_slice(piece.framed());
            }
            assert!(view.over().await);
            let (mut came, mut rest) = (Vec::new(), &to.lock().unwrap()[..]);
            while let Some((len, after)) = rest.split_first_chunk::<4>() {
                let (piece, after) = after.split_at(u32::from_be_bytes(*len) as usize);
                // That would look like the end.
                assert!(!piece.is_empty());
                came.extend_from_slice(piece);
                rest = after;
            }
            assert_eq!(came, b"onetwothreefour");
        }
    }

    #[tokio::test]
    async fn a_stream_whose_session_is_gone_was_cut_off() {
        let (mut view, mut watching) = View::new();
        view.append(&[b"one"]).unwrap();
        drop(view);
        assert_eq!(watching.next().await.unwrap().framed(), b"\0\0\0\x03one");
        assert!(matches!(watching.next().await, Err(End::Cut(_))));
    }

    #[tokio::test]
    async fn no_more_waits_than_a_sender_may_send_ahead() {
        let (mut view, mut watching) = View::new();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        view.tells(move |taken| {
            let _ = told.send(taken);
        });
        let block = vec![7; MAX_BODY];
        let ahead = WINDOW / MAX_BODY as u64;
        for _ in 0..=ahead {
            view.append(&[&block]).unwrap();
        }
        assert!(view.append(&[&block]).is_err());
        // The last one that was given out is not taken yet.
        for _ in 0..ahead / 4 {
            watching.next().await.unwrap();
        }
        assert_eq!(heard.recv().await, Some(STEP));
        assert_eq!(heard.recv().await, Some(2 * STEP));
    }

    #[tokio::test]
    async fn without_a_viewer_only_a_recording_goes_on() {
        let (mut view, watching) = View::new();
        view.append(&[b"one"]).unwrap();
        drop(watching);
        assert!(!view.over().await);
        assert!(view.append(&[b"two"]).is_err());
        let mut recorded = View::unwatched();
        recorded.append(&[b"one"]).unwrap();
    }

    #[tokio::test]
    async fn who_leaves_lets_a_sender_who_may_not_send_hear_of_it() {
        let (mut view, watching) = View::new();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        view.tells(move |taken| {
            let _ = told.send(taken);
        });
        view.append(&[&[7; 100]]).unwrap();
        drop(watching);
        assert_eq!(heard.recv().await, Some(100));
        assert!(view.append(&[b"more"]).is_err());
    }

    #[tokio::test]
    async fn who_watches_too_slowly_does_not_hold_up_a_recording() {
        let (mut view, mut watching) = View::new();
        view.goes_on();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        view.tells(move |taken| {
            let _ = told.send(taken);
        });
        let block = vec![7; MAX_BODY];
        for _ in 0..3 * WINDOW / MAX_BODY as u64 {
            view.append(&[&block]).unwrap();
        }
        assert_eq!(heard.recv().await, Some(STEP));
        assert!(matches!(watching.next().await, Err(End::Cut(_))));
    }

    #[test]
    fn a_stream_of_single_bytes_takes_no_more_memory() {
        let (mut view, _watching) = View::new();
        for _ in 0..200_000 {
            view.append(&[b"x"]).unwrap();
        }
        assert_eq!(view.0.0.lock().pieces.len(), 1);
    }
}

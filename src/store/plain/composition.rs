//! An object is made of the pieces of a file, or of another object, by the server itself: the bytes
//! do not come back here.
//!
//! S3 takes no part that is shorter than 5 MiB, except for the last one, and no more than 10,000.
//! Pieces that are shorter are fetched and written as one part; with more than 10,000, neighbours
//! become one piece first.

use std::ops::Range;

use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use object_store::multipart::PartId;
use tokio::sync::Semaphore;

use super::{
    objects::{Fields, Objects, Upload},
    partial::{Piece, remove_all},
};
use crate::store::{
    buffers,
    member::{MemberError, MemberResult},
};

/// What the server demands of parts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The shortest that a part may be, apart from the last one.
    pub shortest: u64,
    /// The longest that a part is made.
    pub longest: u64,
    /// The most parts of an upload.
    pub parts: usize,
}

/// As Amazon documents them (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>); a
/// part could be up to 5 GiB long, but several shorter ones are copied at the same time.
pub const LIMITS: Limits = Limits {
    shortest: 5 << 20,
    longest: 256 << 20,
    parts: 10_000,
};

/// The most that is copied in one request, while others wait for the lock of names.
const SINGLE: u64 = 64 << 20;

/// Parts that are made at a time.
const AT_ONCE: usize = 8;

/// Parts of short pieces that are in memory at a time, in all of the process.
static FETCHED: Semaphore = Semaphore::const_new(1);

/// One part of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A range of a piece.
    Copied(Piece, Range<u64>),
    /// Short pieces.
    Fetched(Vec<Piece>),
}

/// An object that can be completed.
pub struct Composition {
    key: String,
    fields: Fields,
    how: How,
}

enum How {
    /// The copy of one piece.
    Copy(Piece),
    /// An upload whose parts are there.
    Upload(Upload, Vec<PartId>),
}

impl Composition {
    /// Prepares an object of these pieces, which are removed or stay as they are.
    pub async fn prepare(
        objects: &Objects,
        mut pieces: Vec<Piece>,
        key: &str,
        fields: Fields,
        limits: Limits,
    ) -> MemberResult<Self> {
        let composed = |how| Self {
            key: key.to_owned(),
            fields: fields.clone(),
            how,
        };
        if let [one] = &*pieces
            && one.len <= SINGLE
        {
            return Ok(composed(How::Copy(one.clone())));
        }
        // Of a large file the parts are longer, so that there are few enough.
        let total: u64 = pieces.iter().map(|piece| piece.len).sum();
        let fair = total.div_ceil((limits.parts as u64 / 4).max(1));
        let limits = Limits {
            longest: limits.longest.max(fair),
            ..limits
        };
        let mut parts = parts_of(&pieces, limits);
        while parts.len() > limits.parts {
            pieces = join(objects, pieces, limits).await?;
            parts = parts_of(&pieces, limits);
        }
        let (upload, parts) = upload(objects, parts, key, &fields).await?;
        Ok(composed(How::Upload(upload, parts)))
    }

    /// What is written to it besides its contents.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Makes the object. From here on readers see it. After an error it may be there all the same.
    pub async fn complete(&self, objects: &Objects) -> MemberResult<()> {
        match &self.how {
            How::Copy(from) => objects.copy(from, &self.key, &self.fields).await,
            How::Upload(upload, parts) => objects.complete(upload, parts.clone()).await,
        }
    }

    /// Gives it up.
    pub async fn abort(&self, objects: &Objects) {
        if let How::Upload(upload, _) = &self.how {
            objects.abort(upload).await;
        }
    }
}

/// Uploads the parts of an object.
async fn upload(
    objects: &Objects,
    parts: Vec<Part>,
    key: &str,
    fields: &Fields,
) -> MemberResult<(Upload, Vec<PartId>)> {
    let upload = objects.begin_upload(key, fields).await?;
    let making = stream::iter(parts.into_iter().enumerate())
        .map(|(number, part)| make(objects, &upload, number, part));
    let made = making.buffered(AT_ONCE).try_collect().await;
    match made {
        Ok(parts) => Ok((upload, parts)),
        Err(error) => {
            objects.abort(&upload).await;
            Err(error)
        }
    }
}

async fn make(
    objects: &Objects,
    upload: &Upload,
    number: usize,
    part: Part,
) -> MemberResult<PartId> {
    match part {
        Part::Copied(from, range) => objects.copy_part(upload, number, &from, range).await,
        Part::Fetched(pieces) => {
            let failed = |e: tokio::sync::AcquireError| MemberError::Failed(e.to_string());
            let _one = FETCHED.acquire().await.map_err(failed)?;
            let len: u64 = pieces.iter().map(|piece| piece.len).sum();
            let mut bytes = buffers::take(usize::try_from(len).unwrap_or_default());
            for piece in pieces {
                let got = objects.get(&piece.key, piece.etag.as_deref(), 0..piece.len);
                let got = got.await?;
                bytes.extend_from_slice(&got);
                buffers::give(got);
            }
            let bytes: Bytes = buffers::shared(bytes);
            objects.put_part(upload, number, bytes).await
        }
    }
}

/// How an object is made of pieces.
fn parts_of(pieces: &[Piece], limits: Limits) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut short: Vec<Piece> = Vec::new();
    let sum = |short: &[Piece]| short.iter().map(|piece| piece.len).sum::<u64>();
    for piece in pieces.iter().filter(|piece| piece.len > 0) {
        if short.is_empty() && piece.len >= limits.shortest {
            let ranges = ranges(piece.len, limits.longest);
            parts.extend(ranges.map(|range| Part::Copied(piece.clone(), range)));
            continue;
        }
        short.push(piece.clone());
        if sum(&short) >= limits.shortest {
            parts.push(Part::Fetched(std::mem::take(&mut short)));
        }
    }
    // The last part may be short.
    match short.pop() {
        None => {}
        Some(last) if short.is_empty() => {
            let range = 0..last.len;
            parts.push(Part::Copied(last, range));
        }
        Some(last) => {
            short.push(last);
            parts.push(Part::Fetched(short));
        }
    }
    parts
}

/// Divides an object into ranges of nearly the same length.
fn ranges(len: u64, longest: u64) -> impl Iterator<Item = Range<u64>> {
    let count = len.div_ceil(longest.max(1)).max(1);
    let each = len.div_ceil(count);
    (0..count).map(move |n| n * each..len.min((n + 1) * each))
}

/// Makes one piece of each so many neighbours, so that few enough are left.
async fn join(objects: &Objects, pieces: Vec<Piece>, limits: Limits) -> MemberResult<Vec<Piece>> {
    let each = pieces.len().div_ceil(limits.parts / 2).max(2);
    let mut joined = Vec::with_capacity(pieces.len().div_ceil(each));
    for group in pieces.chunks(each) {
        let Some((first, rest)) = group.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            joined.extend_from_slice(group);
            continue;
        };
        // It takes the key of the first piece: what the others hold is then behind its beginning,
        // and does not count any more.
        let parts = parts_of(group, limits);
        let (upload, parts) = upload(objects, parts, &first.key, &Fields::default()).await?;
        objects.complete(&upload, parts).await?;
        let keys = rest.iter().map(|piece| piece.key.clone()).collect();
        remove_all(objects, keys).await?;
        joined.push(Piece {
            start: first.start,
            len: group.iter().map(|piece| piece.len).sum(),
            key: first.key.clone(),
            etag: None,
        });
    }
    Ok(joined)
}

/// Cuts a piece where the file is to end, on the server: it keeps its key.
pub async fn shorten(objects: &Objects, piece: Piece, end: u64) -> MemberResult<()> {
    let key = piece.key.clone();
    let kept = Piece {
        len: end.saturating_sub(piece.start),
        ..piece
    };
    let parts = parts_of(&[kept], LIMITS);
    let (upload, parts) = upload(objects, parts, &key, &Fields::default()).await?;
    objects.complete(&upload, parts).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        shortest: 5,
        longest: 20,
        parts: 10,
    };

    fn pieces(lens: &[u64]) -> Vec<Piece> {
        let mut start = 0;
        let piece = |(n, len): (usize, &u64)| {
            let piece = Piece {
                start,
                len: *len,
                key: n.to_string(),
                etag: None,
            };
            start += len;
            piece
        };
        lens.iter().enumerate().map(piece).collect()
    }

    fn shown(lens: &[u64]) -> Vec<String> {
        let shown = |part: &Part| match part {
            Part::Copied(piece, range) => {
                format!("{}[{}..{}]", piece.key, range.start, range.end)
            }
            Part::Fetched(short) => {
                let keys: Vec<&str> = short.iter().map(|piece| &*piece.key).collect();
                keys.join("+")
            }
        };
        parts_of(&pieces(lens), SMALL).iter().map(shown).collect()
    }

    #[test]
    fn only_the_last_part_is_short() {
        assert_eq!(shown(&[8, 8, 3]), ["0[0..8]", "1[0..8]", "2[0..3]"]);
        assert_eq!(shown(&[2, 2, 8, 8]), ["0+1+2", "3[0..8]"]);
        assert_eq!(shown(&[8, 1, 1]), ["0[0..8]", "1+2"]);
        assert_eq!(
            shown(&[41, 5]),
            ["0[0..14]", "0[14..28]", "0[28..41]", "1[0..5]"]
        );
        assert_eq!(shown(&[0, 3]), ["1[0..3]"]);
        assert!(shown(&[0]).is_empty());
    }

    #[test]
    fn ranges_cover_an_object_without_a_gap() {
        for len in [1, 19, 20, 21, 40, 41, 399] {
            let all: Vec<_> = ranges(len, 20).collect();
            assert_eq!(all.first().map(|first| first.start), Some(0));
            assert_eq!(all.last().map(|last| last.end), Some(len));
            assert!(all.windows(2).all(|two| match two {
                [a, b] => a.end == b.start,
                _ => false,
            }));
            assert!(all.iter().all(|range| range.end - range.start <= 20));
        }
    }
}

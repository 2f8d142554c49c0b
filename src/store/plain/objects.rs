//! The objects of one folder in a bucket, whose keys are the paths of its files.

use std::{ops::Range, time::Duration};

use futures_util::{Stream, TryStreamExt, stream};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Bytes,
    header::{HeaderName, HeaderValue},
};
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    client::HttpRequestBody,
    list::{PaginatedListOptions, PaginatedListStore},
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use tokio::time::sleep;

use super::partial::Piece;
use crate::store::member::{MemberError, MemberResult, SLOWEST, s3::connection::Connection};

/// How long the signature of a request counts, by which it has to begin.
const SIGNED: Duration = Duration::from_secs(600);

/// Attempts at a request that the library does not know, and the wait before the second.
const ATTEMPTS: (u32, Duration) = (4, Duration::from_millis(200));

/// Bytes of an answer that are looked at.
const ANSWER: usize = 64 << 10;

/// Keys of a page.
pub const PAGE: usize = 1_000;

/// A server copies no less than this many bytes a second, so long is waited for it.
const COPIES: u64 = 2 << 20;

/// The longest key that S3 knows, in bytes.
const MAX_KEY: usize = 1024;

/// The field of an object for its time of modification, in seconds since 1970 with a fraction; other
/// programs, like rclone, use it too.
const MTIME: &str = "mtime";

/// The field of an object for the attempt that it came by.
const ATTEMPT: &str = "m2y-attempt";

/// The objects of a folder.
pub struct Objects {
    connection: Connection,
    bucket: String,
    /// What the keys of the folder begin with, up to its last `/`.
    prefix: String,
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub struct About {
    /// Its bytes.
    pub size: u64,
    /// When the file changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// What tells this version from others.
    pub etag: String,
    /// What m2y wrote to it.
    pub fields: Fields,
}

/// What m2y writes to an object besides its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// When the file changed last, if that is not when the object was written.
    pub modified: Option<i64>,
    /// The attempt that it came by.
    pub attempt: Option<String>,
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key in the folder.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since 1970, by the server's clock.
    pub written: i64,
    /// What tells this version from others.
    pub etag: String,
}

/// A part of a listing.
pub struct Page {
    /// Objects.
    pub entries: Vec<Entry>,
    /// What keys of the folder begin with, up to the next `/`, without it.
    pub directories: Vec<String>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<String>,
}

/// An upload in parts that is under way.
pub struct Upload {
    key: String,
    id: String,
}

impl Objects {
    /// The objects of a bucket whose keys begin with `prefix`, which ends with `/`.
    pub fn new(connection: Connection, bucket: &str, prefix: String) -> Self {
        Self {
            connection,
            bucket: bucket.to_owned(),
            prefix,
        }
    }

    fn path(&self, key: &str) -> MemberResult<Path> {
        let whole = format!("{}{key}", self.prefix);
        let bad = |why: String| MemberError::Failed(format!("{key} cannot be a key: {why}"));
        if whole.len() > MAX_KEY {
            return Err(bad(format!("with {} it is too long", self.prefix)));
        }
        Path::parse(&whole).map_err(|e| bad(e.to_string()))
    }

    /// A key of the bucket as one of the folder.
    fn key(&self, path: &Path) -> Option<String> {
        path.as_ref().strip_prefix(&self.prefix).map(str::to_owned)
    }

    /// Writes an object, in the place of one that has the key.
    pub async fn put(&self, key: &str, body: Bytes) -> MemberResult<()> {
        let (path, len) = (self.path(key)?, body.len() as u64);
        let putting = self.connection.store.put(&path, body.into());
        let put = self.connection.within(Some(key), len, putting).await;
        put.map(drop)
    }

    /// What is known of an object; `None` if it is not there.
    pub async fn about(&self, key: &str) -> MemberResult<Option<About>> {
        let path = self.path(key)?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let asking = self.connection.store.get_opts(&path, options);
        let answer = match self.connection.within(Some(key), 0, asking).await {
            Err(MemberError::Missing(_)) => return Ok(None),
            answer => answer?,
        };
        let field = |name: &'static str| {
            let field = answer.attributes.get(&Attribute::Metadata(name.into()));
            field.map(|value| value.as_ref().to_owned())
        };
        let fields = Fields {
            modified: field(MTIME).and_then(|text| parse_time(&text)),
            attempt: field(ATTEMPT),
        };
        let written = answer.meta.last_modified.timestamp_nanos_opt();
        Ok(Some(About {
            size: answer.meta.size,
            modified: fields.modified.or(written).unwrap_or(0),
            etag: answer.meta.e_tag.unwrap_or_default(),
            fields,
        }))
    }

    /// Reads a range of an object, if it still is this version. The range has to be inside.
    pub async fn get(
        &self,
        key: &str,
        etag: Option<&str>,
        range: Range<u64>,
    ) -> MemberResult<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(Vec::new());
        }
        let path = self.path(key)?;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: etag.filter(|etag| !etag.is_empty()).map(str::to_owned),
            ..GetOptions::default()
        };
        let most = usize::try_from(len).unwrap_or(usize::MAX);
        let getting = self.connection.read(&path, options, most);
        let got = self.connection.within(Some(key), len, getting).await?;
        got.filter(|bytes| bytes.len() == most).ok_or_else(|| {
            let name = &self.connection.name;
            MemberError::Failed(format!(
                "{name}: returned another range of {key} than was asked for"
            ))
        })
    }

    /// Removes an object. One that is not there is no error.
    pub async fn remove(&self, key: &str) -> MemberResult<()> {
        let path = self.path(key)?;
        let removing = self.connection.store.delete(&path);
        match self.connection.within(Some(key), 0, removing).await {
            Err(MemberError::Missing(_)) => Ok(()),
            removed => removed,
        }
    }

    /// A page of the keys that begin with `prefix`, all of them or only up to the next `/`.
    pub async fn page(
        &self,
        prefix: &str,
        is_deep: bool,
        from: Option<String>,
        most: usize,
    ) -> MemberResult<Page> {
        let options = PaginatedListOptions {
            delimiter: (!is_deep).then(|| "/".into()),
            max_keys: Some(most),
            page_token: from,
            ..PaginatedListOptions::default()
        };
        let whole = format!("{}{prefix}", self.prefix);
        let listing = self.connection.store.list_paginated(Some(&whole), options);
        let found = self.connection.within(None, 0, listing).await?;
        let entries = found.result.objects.into_iter().filter_map(|object| {
            // An empty object whose key ends with `/` is what some programs make a directory of; here
            // the end is missing.
            let key = self.key(&object.location);
            Some(Entry {
                key: key.filter(|key| key.starts_with(prefix))?,
                size: object.size,
                written: object.last_modified.timestamp_nanos_opt().unwrap_or(0),
                etag: object.e_tag.unwrap_or_default(),
            })
        });
        let directories = found.result.common_prefixes.iter();
        Ok(Page {
            entries: entries.collect(),
            directories: directories.filter_map(|path| self.key(path)).collect(),
            next: found.page_token,
        })
    }

    /// All pages of the keys that begin with `prefix`. After an error the list ends.
    pub fn pages<'a>(
        &'a self,
        prefix: &'a str,
        is_deep: bool,
    ) -> impl Stream<Item = MemberResult<Page>> + 'a {
        stream::try_unfold(Some(None), move |from: Option<Option<String>>| async move {
            let Some(from) = from else {
                return Ok(None);
            };
            let page = self.page(prefix, is_deep, from, PAGE).await?;
            let next = page.next.clone();
            Ok(Some((page, next.map(Some))))
        })
    }

    /// All objects whose keys begin with `prefix`.
    pub async fn all(&self, prefix: &str) -> MemberResult<Vec<Entry>> {
        let pages = self.pages(prefix, true);
        pages
            .try_fold(Vec::new(), |mut all, page| async move {
                all.extend(page.entries);
                Ok(all)
            })
            .await
    }

    /// Whether any key begins with `prefix`.
    pub async fn has_any(&self, prefix: &str) -> MemberResult<bool> {
        // One may be left out.
        let page = self.page(prefix, true, None, 2).await?;
        Ok(!page.entries.is_empty())
    }

    /// Has the server copy an object of at most 5 GiB; the new one has these fields.
    pub async fn copy(&self, from: &Piece, to: &str, fields: &Fields) -> MemberResult<()> {
        let mut headers = self.source(from)?;
        headers.insert(
            "x-amz-metadata-directive",
            HeaderValue::from_static("REPLACE"),
        );
        for (name, text) in texts(fields) {
            let name = HeaderName::try_from(format!("x-amz-meta-{name}"));
            if let (Ok(name), Ok(text)) = (name, HeaderValue::try_from(text)) {
                headers.insert(name, text);
            }
        }
        let mut options = SignedUrlOptions::new();
        options.signed_headers = headers;
        let answer = self.ask(to, from.len / COPIES, options).await?;
        self.copied(&answer).map(drop)
    }

    /// Begins an upload in parts.
    pub async fn begin_upload(&self, key: &str, fields: &Fields) -> MemberResult<Upload> {
        let path = self.path(key)?;
        let attributes = texts(fields).map(|(name, text)| (Attribute::Metadata(name.into()), text));
        let options = PutMultipartOptions {
            attributes: attributes.collect::<Attributes>(),
            ..PutMultipartOptions::default()
        };
        let store = &self.connection.store;
        let beginning = store.create_multipart_opts(&path, options);
        Ok(Upload {
            key: key.to_owned(),
            id: self.connection.within(Some(key), 0, beginning).await?,
        })
    }

    /// Writes a part; they are numbered from 0.
    pub async fn put_part(&self, to: &Upload, number: usize, bytes: Bytes) -> MemberResult<PartId> {
        let (path, len) = (self.path(&to.key)?, bytes.len() as u64);
        let store = &self.connection.store;
        let putting = store.put_part(&path, &to.id, number, bytes.into());
        self.connection.within(Some(&to.key), len, putting).await
    }

    /// Has the server copy a range of an object as a part.
    pub async fn copy_part(
        &self,
        to: &Upload,
        number: usize,
        from: &Piece,
        range: Range<u64>,
    ) -> MemberResult<PartId> {
        let mut headers = self.source(from)?;
        let last = range.end.saturating_sub(1);
        if let Ok(bytes) = HeaderValue::try_from(format!("bytes={}-{last}", range.start)) {
            headers.insert("x-amz-copy-source-range", bytes);
        }
        let part = (number + 1).to_string();
        let query = [("partNumber", &*part), ("uploadId", &*to.id)];
        let mut options = SignedUrlOptions::new().with_query(query);
        options.signed_headers = headers;
        let seconds = (range.end - range.start) / COPIES;
        let answer = self.ask(&to.key, seconds, options).await?;
        Ok(PartId {
            content_id: self.copied(&answer)?,
        })
    }

    /// The version of what was copied: only a server that copies tells one.
    fn copied(&self, answer: &str) -> MemberResult<String> {
        let etag = element(answer, "ETag").ok_or_else(|| {
            let name = &self.connection.name;
            MemberError::Failed(format!(
                "{name}: does not copy objects, as layout = plain needs it: use another server, or \
                 the sealed layout"
            ))
        })?;
        Ok(etag.replace("&quot;", "\"").replace("&#34;", "\""))
    }

    /// Makes an object of the parts of an upload.
    pub async fn complete(&self, upload: &Upload, parts: Vec<PartId>) -> MemberResult<()> {
        let path = self.path(&upload.key)?;
        let store = &self.connection.store;
        // A server may need a while to put many parts together.
        let bytes = parts.len() as u64 * SLOWEST / 4;
        let completing = store.complete_multipart(&path, &upload.id, parts);
        let completed = self
            .connection
            .within(Some(&upload.key), bytes, completing)
            .await;
        completed.map(drop)
    }

    /// Gives an upload up. What cannot be removed is left to the rules of the bucket.
    pub async fn abort(&self, upload: &Upload) {
        if let Ok(path) = self.path(&upload.key) {
            let _ = self
                .connection
                .store
                .abort_multipart(&path, &upload.id)
                .await;
        }
    }

    /// The headers that name the source of a copy.
    fn source(&self, from: &Piece) -> MemberResult<HeaderMap> {
        let path = self.path(&from.key)?;
        let mut source = self.bucket.clone();
        source.push('/');
        for byte in path.as_ref().bytes() {
            match byte {
                b'/' | b'-' | b'_' | b'.' | b'~' => source.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => source.push(char::from(byte)),
                byte => source.push_str(&format!("%{byte:02X}")),
            }
        }
        let bad = |e: hyper::header::InvalidHeaderValue| MemberError::Failed(e.to_string());
        let mut headers = HeaderMap::new();
        let source = HeaderValue::try_from(source).map_err(bad)?;
        headers.insert("x-amz-copy-source", source);
        if let Some(etag) = from.etag.as_deref().filter(|etag| !etag.is_empty()) {
            let etag = HeaderValue::try_from(etag).map_err(bad)?;
            headers.insert("x-amz-copy-source-if-match", etag);
        }
        Ok(headers)
    }

    /// Sends a request that copies, which the library does not know.
    async fn ask(
        &self,
        key: &str,
        seconds: u64,
        options: SignedUrlOptions,
    ) -> MemberResult<String> {
        let path = self.path(key)?;
        let (attempts, mut pause) = ATTEMPTS;
        let asking = async {
            for _ in 1..attempts {
                match self.ask_once(&path, &options).await {
                    // To copy twice does no harm.
                    Err((true, _)) => sleep(pause).await,
                    asked => return asked.map_err(|(_, error)| error),
                }
                pause *= 2;
            }
            let asked = self.ask_once(&path, &options).await;
            asked.map_err(|(_, error)| error)
        };
        // The deadline is counted in bytes at the slowest pace of a transfer.
        let bytes = seconds.saturating_mul(SLOWEST);
        match self.connection.within(Some(key), bytes, asking).await {
            // What was to be copied is another one by now.
            Err(MemberError::Exists(_)) => Err(MemberError::Unreachable(
                "the file was changed by another program while it was copied: try again".to_owned(),
            )),
            asked => asked,
        }
    }

    /// One attempt; with an error, whether another makes sense.
    async fn ask_once(
        &self,
        path: &Path,
        options: &SignedUrlOptions,
    ) -> Result<String, (bool, object_store::Error)> {
        let broken = |e: Box<dyn std::error::Error + Send + Sync>| (true, generic(e));
        let store = &self.connection.store;
        let url = store.signed_url_opts(Method::PUT, path, SIGNED, options);
        let url = url.await.map_err(|error| (true, error))?;
        let mut request = Request::put(url.as_str());
        if let Some(headers) = request.headers_mut() {
            headers.extend(options.signed_headers.clone());
        }
        let request = request.body(HttpRequestBody::empty());
        let request = request.map_err(|e| broken(e.into()))?;
        let answer = self.connection.http.execute(request).await;
        let (head, body) = answer.map_err(|e| broken(e.into()))?.into_parts();
        let mut text = Vec::new();
        let mut body = body.bytes_stream();
        while let Some(piece) = body.try_next().await.map_err(|e| broken(e.into()))? {
            let room = ANSWER.saturating_sub(text.len());
            text.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        }
        let (status, text) = (head.status, String::from_utf8_lossy(&text).into_owned());
        // A copy that takes long fails after its status was sent.
        if status.is_success() && !text.contains("<Error>") {
            return Ok(text);
        }
        let is_busy = status.is_server_error()
            || status.is_success()
            || status == StatusCode::TOO_MANY_REQUESTS;
        Err((is_busy, refused(path, status, text)))
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source,
    }
}

/// The error of an answer, as the library would make it.
fn refused(path: &Path, status: StatusCode, answer: String) -> object_store::Error {
    let path = path.to_string();
    match status {
        StatusCode::NOT_FOUND => object_store::Error::NotFound {
            path,
            source: answer.into(),
        },
        StatusCode::PRECONDITION_FAILED => object_store::Error::Precondition {
            path,
            source: answer.into(),
        },
        _ => generic(format!("status code: {status}: {answer}").into()),
    }
}

/// The fields with their names.
fn texts(fields: &Fields) -> impl Iterator<Item = (&'static str, String)> {
    let modified = fields.modified.map(|time| (MTIME, time_text(time)));
    let attempt = fields.attempt.clone().map(|attempt| (ATTEMPT, attempt));
    modified.into_iter().chain(attempt)
}

/// The text of an element without children.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

fn time_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!(
        "{sign}{}.{:09}",
        nanos / 1_000_000_000,
        nanos % 1_000_000_000
    )
}

fn parse_time(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let seconds: i64 = seconds.parse().ok().filter(|seconds| *seconds >= 0)?;
    let nanos: u32 = digits.parse().ok()?;
    let whole = seconds.checked_mul(1_000_000_000)?;
    Some(sign * whole.checked_add(i64::from(nanos))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_to_the_nanosecond() {
        for time in [0, 1, -1, 1_546_214_399_000_001_000, -86_400_000_000_001] {
            assert_eq!(parse_time(&time_text(time)), Some(time));
        }
        assert_eq!(time_text(1_546_214_399_000_001_000), "1546214399.000001000");
        // As rclone writes it.
        assert_eq!(parse_time("1354040105.5"), Some(1_354_040_105_500_000_000));
        assert_eq!(parse_time("1354040105"), Some(1_354_040_105_000_000_000));
        for bad in ["", "x", "1.x", "--1", "99999999999999999999", "1.-5"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}

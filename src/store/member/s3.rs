//! A bucket of an S3-compatible server as a member.
//!
//! Requests, signatures, retries and credentials are those of the crate `object_store`; the
//! connections are ours.

use std::{
    env,
    error::Error as StdError,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hmac::{Hmac, KeyInit, Mac};
use hyper::body::Bytes;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{
        CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, HttpError, HttpErrorKind,
        Signer, SigningAlgorithm,
    },
    path::Path,
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use url::Url;
use zeroize::Zeroizing;

use super::{
    Existing, MAX_OBJECT, Member, MemberError, MemberResult, Object, ObjectKey, SLOWEST,
    http::Connector, profile,
};
use crate::{
    root::settings::store::Bucket,
    store::buffers,
    transport::{resolve::answers, tls::Trust},
};

/// The time for one call, with all its retries, apart from what its bytes take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Attempts at one request after the first, and the time in which they begin.
const RETRIES: (usize, Duration) = (3, Duration::from_secs(20));

/// The variables that credentials come from, where no profile is used.
const VARIABLES: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Where a machine at Amazon learns its credentials.
const METADATA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Whether this machine may have a role there; it takes a second to find out that it has not.
fn is_on_amazon() -> bool {
    answers(METADATA, Duration::from_secs(1))
}

/// Tells the library what to sign with.
fn sign_with(
    mut builder: AmazonS3Builder,
    bucket: &Bucket,
    credentials: Option<&Credentials>,
) -> MemberResult<AmazonS3Builder> {
    let of_profile = match credentials {
        Some(_) => None,
        None => profile::credentials()?,
    };
    if let Some(Credentials { key, secret, token }) = credentials.or(of_profile.as_ref()) {
        builder = builder
            .with_access_key_id(key)
            .with_secret_access_key(secret.as_str());
        if let Some(token) = token {
            builder = builder.with_token(token.as_str());
        }
    } else {
        // No other variable counts: what m2y.ini says about the server stands there.
        let (names, values) = (VARIABLES, VARIABLES.map(env::var));
        if values.iter().all(Result::is_err) && !is_on_amazon() {
            return Err(MemberError::Denied(format!(
                "{} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
                bucket.shown()
            )));
        }
        for (name, value) in names.iter().zip(values) {
            let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
            if let (Ok(key), Ok(value)) = (key, value) {
                builder = builder.with_config(key, value);
            }
        }
    }
    Ok(builder)
}

/// The region of a server that has none.
const ANY_REGION: &str = "us-east-1";

/// What requests are signed with.
pub struct Credentials {
    /// The id of the access key.
    pub key: String,
    /// The secret of it.
    pub secret: Zeroizing<String>,
    /// What a temporary key needs besides.
    pub token: Option<Zeroizing<String>>,
}

/// A bucket, and a prefix in it.
pub struct S3Member {
    store: AmazonS3,
    prefix: Path,
    /// As errors name it.
    name: String,
}

impl S3Member {
    /// Prepares a bucket; nothing is asked yet. Without credentials given here they come from
    /// the `AWS_*` variables, a profile, a web identity or the machine's role, as with other
    /// programs.
    ///
    /// # Errors
    ///
    /// If the settings do not fit each other, or TLS cannot be set up.
    pub fn new(bucket: &Bucket, credentials: Option<&Credentials>) -> MemberResult<Self> {
        let denied = |e: object_store::Error| MemberError::Denied(e.to_string());
        let endpoint = bucket.endpoint.as_deref();
        let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let host = endpoint
            .and_then(|endpoint| Url::parse(endpoint).ok())
            .and_then(|url| Some(url.host_str()?.trim_matches(['[', ']']).to_owned()));
        let trust = match Trust::load(None, std::path::Path::new(".")) {
            Ok(trust) => Some(trust),
            Err(_) if is_plain => None,
            Err(e) => return Err(MemberError::Denied(e.to_string())),
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket.name)
            .with_allow_http(is_plain)
            // Every object has checksums of its own, and is sealed.
            .with_unsigned_payload(true)
            // Not every server knows how to remove several at once.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                max_retries: RETRIES.0,
                retry_timeout: RETRIES.1,
                ..RetryConfig::default()
            })
            .with_crypto_provider(Arc::new(RustCrypto))
            .with_http_connector(Connector::new(trust, host.filter(|_| is_plain)));
        builder = sign_with(builder, bucket, credentials)?;
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(match bucket.is_path_style() {
                true => endpoint.to_owned(),
                // The library takes an endpoint without the bucket in its path for one whose host
                // has it.
                false => endpoint.replacen("://", &format!("://{}.", bucket.name), 1),
            });
        }
        let of_variable = ["AWS_REGION", "AWS_DEFAULT_REGION"].map(env::var);
        let of_variable = of_variable.into_iter().find_map(Result::ok);
        let region = bucket.region.clone().or(of_variable);
        if let Some(region) = region.or_else(|| endpoint.is_some().then(|| ANY_REGION.to_owned())) {
            builder = builder.with_region(region);
        }
        builder = builder.with_virtual_hosted_style_request(!bucket.is_path_style());
        Ok(Self {
            store: builder.build().map_err(denied)?,
            prefix: Path::from(bucket.prefix.as_str()),
            name: bucket.shown(),
        })
    }

    fn path(&self, key: &ObjectKey) -> Path {
        self.prefix
            .parts()
            .chain(key.as_str().split('/').map(Into::into))
            .collect()
    }

    /// The key of a path of the bucket, if it is one of ours.
    fn key(&self, path: &Path) -> Option<ObjectKey> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        ObjectKey::parse(&parts.join("/"))
    }

    /// Waits for an answer, for as long as one that moves so many bytes may take.
    async fn within<T>(
        &self,
        key: Option<&ObjectKey>,
        bytes: u64,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> MemberResult<T> {
        let deadline = DEADLINE + Duration::from_secs(bytes / SLOWEST);
        match timeout(deadline, asked).await {
            Ok(answer) => answer.map_err(|error| self.error(key, error)),
            Err(_) => Err(MemberError::Unreachable(format!(
                "{} is too slow: no answer within {} s",
                self.name,
                deadline.as_secs()
            ))),
        }
    }

    /// What an error of the library means to an administrator.
    fn error(&self, key: Option<&ObjectKey>, error: object_store::Error) -> MemberError {
        use object_store::Error as E;
        let text = whole(&error);
        let said = |word: &str| text.contains(word);
        let name = &self.name;
        if said("NoSuchBucket") {
            return MemberError::Denied(format!("{name}: there is no such bucket: create it"));
        }
        if said("RequestTimeTooSkewed") {
            return MemberError::Denied(format!(
                "{name}: the clocks of this machine and of the server differ too much: set them"
            ));
        }
        if said("InvalidAccessKeyId") || said("SignatureDoesNotMatch") {
            return MemberError::Denied(format!(
                "{name}: the credentials are wrong: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ));
        }
        // Listings say it in a way of their own.
        if said("status code: 403") || said("AccessDenied") {
            return MemberError::Denied(format!("{name}: {NO_ACCESS}"));
        }
        if said("QuotaExceeded") || said("StorageFull") || said("507 Insufficient Storage") {
            return MemberError::Full(format!("{name} is full"));
        }
        match (error, key) {
            // A page that is not there is not an object that is not there.
            (E::NotFound { .. }, _) if said("<") && !said("NoSuchKey") => MemberError::Failed(
                format!("{name}: the server does not answer as S3 does: check the endpoint"),
            ),
            (E::NotFound { .. }, Some(key)) => MemberError::Missing(key.clone()),
            (E::AlreadyExists { .. } | E::Precondition { .. }, Some(key)) => {
                MemberError::Exists(key.clone())
            }
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _) => {
                MemberError::Denied(format!("{name}: {NO_ACCESS}"))
            }
            (error, _) => match unreachable(&error) {
                true => {
                    MemberError::Unreachable(format!("{name} cannot be reached: {}", last(&error)))
                }
                false => MemberError::Failed(format!("{name}: {text}")),
            },
        }
    }
}

/// What credentials need.
const NO_ACCESS: &str = "access denied: the credentials need permission to list the bucket, and to read, write and delete objects in it";

/// An error with all its causes.
fn whole(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The last cause of an error.
fn last(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Whether the server did not answer, or said that it cannot now.
fn unreachable(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return matches!(
                error.kind(),
                HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted
            );
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() != io::ErrorKind::InvalidData;
        }
        cause = error.source();
    }
    let text = whole(error);
    let said = |word: &str| text.contains(word);
    // What a server has not implemented it will not do later either.
    let never = said("code: 501") || said("code: 505");
    !never && (said("code: 5") || said("code: 429"))
}

impl Member for S3Member {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            let len = body.len() as u64;
            let options = PutOptions::from(match existing {
                Existing::Replace => PutMode::Overwrite,
                Existing::Keep => PutMode::Create,
            });
            let path = self.path(key);
            let putting = self.store.put_opts(&path, body.into(), options);
            self.within(Some(key), len, putting).await.map(drop)
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        async move {
            if range.as_ref().is_some_and(Range::is_empty) {
                return self.stat(key).await.map(|_| Vec::new());
            }
            let path = self.path(key);
            let options = GetOptions {
                range: range.clone().map(GetRange::Bounded),
                ..GetOptions::default()
            };
            let wanted = range
                .as_ref()
                .map_or(MAX_OBJECT, |range| range.end - range.start);
            let most = usize::try_from(wanted.min(MAX_OBJECT)).unwrap_or(usize::MAX);
            let getting = async {
                let answer = self.store.get_opts(&path, options).await?;
                let len = answer.range.end.saturating_sub(answer.range.start);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let mut bytes = buffers::take(len.min(most));
                let mut body = answer.into_stream();
                while let Some(piece) = body.try_next().await? {
                    if bytes.len() + piece.len() > most {
                        return Ok(None);
                    }
                    bytes.extend_from_slice(&piece);
                }
                Ok(Some(bytes))
            };
            let got = self.within(Some(key), wanted, getting).await;
            let long = || {
                let sentence = format!("{} returned more than was asked for of {key}", self.name);
                MemberError::Failed(sentence)
            };
            let got = got.and_then(|bytes| bytes.ok_or_else(long));
            match (got, range) {
                (Err(error @ MemberError::Failed(_)), Some(range)) => {
                    // A range behind the end is an error of most servers.
                    let object = self.stat(key).await?;
                    match range.start >= object.size {
                        true => Ok(Vec::new()),
                        false => Err(error),
                    }
                }
                (got, _) => got,
            }
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        async move {
            let path = self.path(key);
            let about = match self.within(Some(key), 0, self.store.head(&path)).await {
                // The answer has no body, and so does not say what is missing: the bucket, or all
                // that was ever there.
                Err(MemberError::Missing(_)) => {
                    let options = GetOptions {
                        range: Some(GetRange::Bounded(0..1)),
                        ..GetOptions::default()
                    };
                    let asking = self.store.get_opts(&path, options);
                    return match self.within(Some(key), 0, asking).await {
                        Ok(_) => Err(MemberError::Failed(format!(
                            "{}: contradicts itself about {key}",
                            self.name
                        ))),
                        Err(error) => Err(error),
                    };
                }
                about => about?,
            };
            Ok(Object {
                key: key.clone(),
                size: about.size,
                modified: about.last_modified.timestamp_nanos_opt().unwrap_or(0),
            })
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            let path = self.path(key);
            match self.within(Some(key), 0, self.store.delete(&path)).await {
                Err(MemberError::Missing(_)) => Ok(()),
                removed => removed,
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        let prefix = directory.map_or_else(|| self.prefix.clone(), |key| self.path(key));
        let listing = self.store.list(Some(&prefix));
        let listing = listing.map_err(|error| self.error(None, error));
        // A server that stops in the middle of a page is waited for no longer than for an object.
        let waiting = stream::try_unfold(Some(listing), move |listing| async move {
            let Some(mut listing) = listing else {
                return Ok(None);
            };
            match timeout(DEADLINE, listing.next()).await {
                Ok(Some(found)) => found.map(|found| Some((found, Some(listing)))),
                Ok(None) => Ok(None),
                Err(_) => Err(MemberError::Unreachable(format!(
                    "{} is too slow: a listing stopped for {} s",
                    self.name,
                    DEADLINE.as_secs()
                ))),
            }
        });
        waiting
            .try_filter_map(move |about| async move {
                let key = self.key(&about.location);
                Ok(key.map(|key| Object {
                    key,
                    size: about.size,
                    modified: about.last_modified.timestamp_nanos_opt().unwrap_or(0),
                }))
            })
            .boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        async { Ok(None) }.boxed()
    }
}

/// The digests that requests are signed with, by the crates that the rest of m2y uses.
#[derive(Debug)]
struct RustCrypto;

impl CryptoProvider for RustCrypto {
    fn digest(&self, algorithm: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Sha(Sha256::new(), [0; 32]))),
            _ => Err(unsupported()),
        }
    }

    fn hmac(
        &self,
        algorithm: DigestAlgorithm,
        secret: &[u8],
    ) -> object_store::Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => {
                let mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| unsupported())?;
                Ok(Box::new(HmacSha(mac, [0; 32])))
            }
            _ => Err(unsupported()),
        }
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        Err(unsupported())
    }
}

fn unsupported() -> object_store::Error {
    object_store::Error::NotSupported {
        source: "S3 needs SHA-256 only".into(),
    }
}

struct Sha(Sha256, [u8; 32]);

impl DigestContext for Sha {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.1 = self.0.finalize_reset().into();
        Ok(&self.1)
    }
}

struct HmacSha(Hmac<Sha256>, [u8; 32]);

impl HmacContext for HmacSha {
    fn update(&mut self, data: &[u8]) {
        Mac::update(&mut self.0, data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.1 = self.0.clone().finalize().into_bytes().into();
        Ok(&self.1)
    }
}

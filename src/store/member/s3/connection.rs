//! A connection to a bucket: what is asked is signed, waited for, tried again, and its errors tell an
//! administrator what to do.

use std::{
    env,
    error::Error as StdError,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;
use object_store::{
    ClientOptions, GetOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind},
    path::Path,
};
use tokio::time::timeout;
use url::Url;
use zeroize::Zeroizing;

use super::{
    super::{MemberError, MemberResult, SLOWEST, http::Connector, profile},
    digests::RustCrypto,
};
use crate::{
    root::settings::store::Bucket,
    store::buffers,
    transport::{resolve::answers, tls::Trust},
};

/// The time for one call, with all its retries, apart from what its bytes take.
pub const DEADLINE: Duration = Duration::from_secs(60);

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

/// A bucket of a server.
pub struct Connection {
    /// Its requests.
    pub store: AmazonS3,
    /// For requests that `store` does not know.
    pub http: HttpClient,
    /// As errors name it.
    pub name: String,
}

impl Connection {
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
        let connector = Connector::new(trust, host.filter(|_| is_plain));
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
            .with_http_connector(connector.clone());
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
            http: connector
                .connect(&ClientOptions::default())
                .map_err(denied)?,
            name: bucket.shown(),
        })
    }

    /// Waits for an answer, for as long as one that moves so many bytes may take.
    ///
    /// # Errors
    ///
    /// What the server said about this key, if it is about one.
    pub async fn within<T>(
        &self,
        key: Option<&str>,
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

    /// Reads an object, or a range of it; `None` if more came than so many bytes.
    pub async fn read(
        &self,
        path: &Path,
        options: GetOptions,
        most: usize,
    ) -> object_store::Result<Option<Vec<u8>>> {
        let answer = self.store.get_opts(path, options).await?;
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
    }

    /// What an error of the library means to an administrator.
    pub fn error(&self, key: Option<&str>, error: object_store::Error) -> MemberError {
        use object_store::Error as E;
        let text = whole(&error);
        let said = |word: &str| text.contains(word);
        let name = &self.name;
        if said("NoSuchBucket") {
            return MemberError::Denied(format!("{name}: the bucket does not exist: create it"));
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
        // Some servers refuse with 403 what does not fit.
        if said("QuotaExceeded") || said("StorageFull") || said("507 Insufficient Storage") {
            return MemberError::Full(format!("{name} is full"));
        }
        // Listings say it in a way of their own.
        if said("status code: 403") || said("AccessDenied") {
            return MemberError::Denied(format!("{name}: {NO_ACCESS}"));
        }
        if said("NoSuchUpload") {
            return MemberError::Failed(format!(
                "{name}: the server knows nothing of an upload that it began: try again"
            ));
        }
        match (error, key) {
            (E::InvalidPath { source }, _) => MemberError::Failed(format!(
                "{name} has a key that cannot be the path of a file, rename or remove it: {source}"
            )),
            // A page that is not there is not an object that is not there.
            (E::NotFound { .. }, _) if said("<") && !said("NoSuchKey") => MemberError::Failed(
                format!("{name}: the server does not answer as S3 does: check the endpoint"),
            ),
            (E::NotFound { .. }, Some(key)) => MemberError::Missing(key.to_owned()),
            (E::AlreadyExists { .. } | E::Precondition { .. }, Some(key)) => {
                MemberError::Exists(key.to_owned())
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

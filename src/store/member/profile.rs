//! Credentials of a profile, as the AWS command line keeps them: `~/.aws/credentials`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use ini::{Ini, ParseOption};
use zeroize::Zeroizing;

use super::{MemberError, MemberResult, s3::Credentials};

/// The largest file with profiles, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Variables that name credentials of another kind, which take precedence over the default
/// profile.
const OTHERS: [&str; 3] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// The credentials of the profile that `AWS_PROFILE` names, or of the default one if nothing else
/// says what to use; as for other programs, a key in `AWS_ACCESS_KEY_ID` comes before both. `None`
/// if no profile was named and the default one has no key.
///
/// # Errors
///
/// If the profile was named and cannot be read.
pub fn credentials() -> MemberResult<Option<Credentials>> {
    if env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return Ok(None);
    }
    let named = env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    if named.is_none() && OTHERS.iter().any(|name| env::var_os(name).is_some()) {
        return Ok(None);
    }
    let file = env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let file = file.or_else(|| Some(env::home_dir()?.join(".aws/credentials")));
    let Some(file) = file else {
        return Ok(None);
    };
    read(&file, named.as_deref())
}

fn read(file: &Path, named: Option<&str>) -> MemberResult<Option<Credentials>> {
    let denied = |why: String| MemberError::Denied(format!("{}: {why}", file.display()));
    let text = match fs::metadata(file).and_then(|about| match about.len() {
        0..=MAX_LEN => fs::read_to_string(file),
        _ => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
    }) {
        Ok(text) => Zeroizing::new(text),
        Err(_) if named.is_none() => return Ok(None),
        Err(e) => return Err(denied(e.to_string())),
    };
    let options = ParseOption {
        enabled_escape: false,
        ..ParseOption::default()
    };
    let profiles = Ini::load_from_str_opt(&text, options).map_err(|e| denied(e.to_string()))?;
    let name = named.unwrap_or("default");
    let Some(profile) = profiles.section(Some(name)) else {
        return match named {
            Some(name) => Err(denied(format!(
                "there is no profile [{name}] (AWS_PROFILE)"
            ))),
            None => Ok(None),
        };
    };
    let get = |key: &str| {
        profile
            .get(key)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    };
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(key), Some(secret)) => Ok(Some(Credentials {
            key: key.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            token: get("aws_session_token").map(|token| Zeroizing::new(token.to_owned())),
        })),
        // A role, or a program that knows: not for us.
        _ if named.is_none() => Ok(None),
        _ => Err(denied(format!(
            "profile [{name}] needs aws_access_key_id and aws_secret_access_key"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_its_own_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let of = |named| {
            let found = read(&file, named);
            found.map(|found| found.map(|one| (one.key, one.secret.to_string())))
        };
        assert_eq!(of(None), Ok(None));
        assert!(of(Some("work")).is_err());
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key = b\\n+/=\n\
            [work]\naws_access_key_id=c\naws_secret_access_key=d\n[half]\naws_access_key_id=e\n";
        fs::write(&file, text).unwrap();
        let is = |key: &str, secret: &str| Ok(Some((key.to_owned(), secret.to_owned())));
        assert_eq!(of(None), is("a", "b\\n+/="));
        assert_eq!(of(Some("work")), is("c", "d"));
        for wrong in ["half", "none"] {
            let Err(MemberError::Denied(why)) = of(Some(wrong)) else {
                unreachable!();
            };
            assert!(why.contains(wrong), "{why}");
        }
    }
}

//! Stores on members that fail on command.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use cap_std::{ambient_authority, fs::Dir};
use m2y::{
    crypto::keys::PrivateKey,
    store::{
        chunked::{ChunkedStore, Policy, holders::Holders},
        member::Member,
        sealed::folder::FolderSecret,
        stripe::Stripe,
    },
};
use tempfile::TempDir;

use super::{key, member::TestMember};

/// The owner of the folders.
pub static OWNER: LazyLock<Arc<PrivateKey>> =
    LazyLock::new(|| Arc::new(PrivateKey::from_pem(&key("roland-frei")).unwrap()));

/// Members, and a folder that they hold.
pub struct Members {
    /// Those that fail on command.
    pub test: Vec<TestMember>,
    pub all: Vec<Arc<dyn Member>>,
    pub folder: FolderSecret,
    /// Where the index is.
    pub root: TempDir,
    pub keep: Duration,
    pub deadline: Duration,
    pub silence: Duration,
}

impl Members {
    pub fn of(all: Vec<Arc<dyn Member>>) -> Self {
        Self {
            test: Vec::new(),
            all,
            folder: FolderSecret::new().unwrap(),
            root: tempfile::tempdir().unwrap(),
            keep: Duration::ZERO,
            deadline: Duration::from_secs(5),
            silence: Duration::from_secs(60),
        }
    }

    fn of_tests(count: usize) -> Self {
        let test: Vec<TestMember> = (0..count).map(|_| TestMember::default()).collect();
        let members = test.iter().map(|member| {
            let member: Arc<dyn Member> = Arc::new(member.clone());
            member
        });
        let all = members.collect();
        Self {
            test,
            ..Self::of(all)
        }
    }

    pub fn one() -> Self {
        Self::of_tests(1)
    }

    pub fn four() -> Self {
        Self::of_tests(4)
    }

    pub fn holders(&self) -> Holders {
        let mut number = 0;
        let named: Vec<(String, Arc<dyn Member>)> = self
            .all
            .iter()
            .map(|member| {
                number += 1;
                (format!("m{number}"), member.clone())
            })
            .collect();
        match <[_; 4]>::try_from(named) {
            Ok(four) => {
                let stripe = Stripe::new(four, 3).with_deadline(self.deadline);
                Holders::Stripe(Box::new(stripe))
            }
            Err(mut one) => {
                let (name, member) = one.remove(0);
                Holders::One { name, member }
            }
        }
    }

    /// The store, as a server of this root has it.
    pub fn open(&self) -> ChunkedStore {
        self.open_at(&self.root)
    }

    /// The store, as a server has it whose index is there.
    pub fn open_at(&self, root: &TempDir) -> ChunkedStore {
        let dir = Dir::open_ambient_dir(root.path(), ambient_authority()).unwrap();
        let policy = Policy {
            readers: vec![OWNER.public().clone()],
            keep: self.keep,
            identity: root.path().to_str().unwrap().into(),
            silence: self.silence,
        };
        let (folder, holders) = (self.folder.clone(), Arc::new(self.holders()));
        ChunkedStore::open((&dir, root.path()), "safe", folder, holders, policy).unwrap()
    }
}

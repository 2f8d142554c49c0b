//! What is on four members survives the loss of any two, and no wrong byte is ever read.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    member::{Fault, TestMember},
    noise,
};
use hyper::body::Bytes;
use m2y::store::{
    member::{Existing, Member, ObjectKey},
    stripe::{ChunkAt, Read, Stripe, StripeError, Written},
};
use tokio::time::Instant;

/// All pairs of members.
const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];

const TRAILER: &[u8] = b"what stands behind each share";

struct Four {
    members: [TestMember; 4],
    stripe: Stripe,
    chunk: Vec<u8>,
}

fn key() -> ObjectKey {
    ObjectKey::parse("c/00/chunk").unwrap()
}

impl Four {
    fn new(quorum: usize) -> Self {
        let members: [TestMember; 4] = Default::default();
        let mut number = 0;
        let named = members.each_ref().map(|member| {
            number += 1;
            let member: Arc<dyn Member> = Arc::new(member.clone());
            (format!("m{number}"), member)
        });
        Self {
            stripe: Stripe::new(named, quorum).with_deadline(Duration::from_secs(5)),
            members,
            chunk: noise(100_003),
        }
    }

    async fn put(&self) -> Result<Written, StripeError> {
        self.stripe
            .put_chunk(&key(), self.chunk.clone(), TRAILER)
            .await
    }

    /// What each member has under a key.
    fn documents(&self, key: &ObjectKey) -> [String; 4] {
        let members = self.members.each_ref();
        members.map(|member| String::from_utf8(member.objects()[key].to_vec()).unwrap())
    }

    async fn get(&self, written: &Written) -> Result<Read, StripeError> {
        self.stripe.get_chunk(&self.at(written)).await
    }

    fn at<'a>(&self, written: &'a Written) -> ChunkAt<'a> {
        static KEY: std::sync::LazyLock<ObjectKey> = std::sync::LazyLock::new(key);
        ChunkAt {
            key: &KEY,
            len: self.chunk.len(),
            trailer: TRAILER.len(),
            digests: &written.digests,
        }
    }

    /// Reads the chunk, which must be right.
    async fn read(&self, written: &Written) -> Read {
        let read = self.get(written).await.unwrap();
        assert!(read.chunk == self.chunk, "a wrong byte");
        assert_eq!(read.trailer, TRAILER);
        read
    }

    fn set(&self, faults: [Fault; 4]) {
        for (member, fault) in self.members.iter().zip(faults) {
            member.set(fault);
        }
    }

    /// The same fault for these members, and none for the others.
    fn only(&self, bad: &[usize], fault: Fault) {
        for (number, member) in self.members.iter().enumerate() {
            member.set(if bad.contains(&number) {
                fault
            } else {
                Fault::None
            });
        }
    }

    fn holders(&self) -> Vec<usize> {
        let has = |number: &usize| self.members[*number].has(&key());
        (0..4).filter(has).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn any_two_members_may_be_lost() {
    let four = Four::new(3);
    let written = four.put().await.unwrap();
    assert!(written.missing.is_empty());
    assert!(four.read(&written).await.wrong.is_empty());
    for (one, other) in PAIRS {
        for fault in [Fault::Down, Fault::Flips, Fault::Cuts, Fault::Hangs] {
            four.only(&[one, other], fault);
            let read = four.read(&written).await;
            // A member that does not answer has lost nothing, and is not asked for a while.
            assert!(read.wrong.is_empty() || fault != Fault::Down, "{fault:?}");
            four.only(&[], Fault::None);
            tokio::time::advance(Duration::from_secs(31)).await;
        }
    }
    // With three lost there is one clear sentence.
    four.only(&[0, 1, 3], Fault::Down);
    let error = four.get(&written).await.unwrap_err().to_string();
    assert_eq!(error.matches("it is down").count(), 3, "{error}");
    assert!(
        error.starts_with("1 of 2 members that are needed could be read: m"),
        "{error}"
    );
    four.only(&[], Fault::None);
    four.read(&written).await;
}

#[tokio::test(start_paused = true)]
async fn three_of_four_are_written_to_and_fewer_are_none() {
    for lost in 0..4 {
        for fault in [Fault::Down, Fault::Full, Fault::Hangs] {
            let four = Four::new(3);
            four.only(&[lost], fault);
            let written = four.put().await.unwrap();
            assert_eq!(written.missing, [lost], "{fault:?}");
            // It can bear the loss of one more.
            for other in (0..4).filter(|other| *other != lost) {
                four.only(&[lost, other], Fault::Down);
                four.read(&written).await;
            }
            // When the member is back, it gets its share.
            four.only(&[], Fault::None);
            let at = four.at(&written);
            let missing = four.stripe.repair_chunk(&at, &[lost]).await.unwrap();
            assert!(missing.is_empty());
            let others: Vec<usize> = (0..4).filter(|other| *other != lost).take(2).collect();
            four.only(&others, Fault::Down);
            four.read(&written).await;
        }
        let four = Four::new(4);
        four.only(&[lost], Fault::Down);
        four.put().await.unwrap_err();
        assert!(
            four.holders().is_empty(),
            "shares are left: {:?}",
            four.holders()
        );
    }
    for (one, other) in PAIRS {
        for fault in [Fault::Down, Fault::Full, Fault::Hangs] {
            let four = Four::new(3);
            four.only(&[one, other], fault);
            let begun = Instant::now();
            let error = four.put().await.unwrap_err();
            assert!(begun.elapsed() <= Duration::from_secs(7), "{fault:?}");
            assert!(
                matches!(
                    &error,
                    StripeError::Write {
                        written: ..=2,
                        needed: 3,
                        ..
                    }
                ),
                "{error}"
            );
            assert!(
                four.holders().is_empty(),
                "shares are left: {:?}",
                four.holders()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_was_written_although_the_answer_was_lost_does_no_harm() {
    let four = Four::new(3);
    four.set([Fault::None, Fault::FailsAfter, Fault::None, Fault::None]);
    let written = four.put().await.unwrap();
    assert_eq!(written.missing, [1]);
    four.only(&[0, 2], Fault::Down);
    four.read(&written).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_costs_a_read_at_most_300_ms() {
    for hung in 0..4 {
        let four = Four::new(3);
        let written = four.put().await.unwrap();
        // How fast each of them is, is known from earlier reads or not.
        for _ in 0..2 {
            four.only(&[hung], Fault::Hangs);
            let begun = Instant::now();
            four.read(&written).await;
            assert!(
                begun.elapsed() <= Duration::from_millis(300),
                "{:?}",
                begun.elapsed()
            );
            four.only(&[], Fault::None);
            four.read(&written).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_hang_end_a_read_in_time_and_are_not_asked_again_at_once() {
    let four = Four::new(3);
    let written = four.put().await.unwrap();
    four.only(&[0, 1, 2], Fault::Hangs);
    let begun = Instant::now();
    let error = four.get(&written).await.unwrap_err().to_string();
    assert!(
        begun.elapsed() <= Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert!(error.contains("no answer within"), "{error}");
    // With two, only the first chunk of a file waits for them.
    four.only(&[0, 1], Fault::Hangs);
    four.read(&written).await;
    let begun = Instant::now();
    for _ in 0..20 {
        four.read(&written).await;
    }
    assert!(
        begun.elapsed() <= Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_given_up_does_not_come_after_a_later_one() {
    let four = Four::new(3);
    let put = |text: &'static str| {
        let document = Bytes::from_static(text.as_bytes());
        let stripe = &four.stripe;
        async move {
            stripe
                .put_document(&key(), document, Existing::Replace)
                .await
        }
    };
    four.only(&[3], Fault::Slow(Duration::from_secs(3)));
    assert_eq!(put("old").await, Ok(vec![3]));
    four.only(&[], Fault::None);
    assert_eq!(put("new").await, Ok(vec![3]), "it is still busy");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(four.documents(&key()), ["new"; 4]);
    // A chunk that too few took leaves nothing, however late it arrives.
    let four = Four::new(3);
    four.set([
        Fault::Full,
        Fault::Full,
        Fault::Slow(Duration::from_secs(2)),
        Fault::None,
    ]);
    four.put().await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(four.holders().is_empty(), "{:?}", four.holders());
}

#[tokio::test(start_paused = true)]
async fn the_two_fastest_members_are_asked() {
    let four = Four::new(3);
    let written = four.put().await.unwrap();
    let slow = |millis| Fault::Slow(Duration::from_millis(millis));
    four.set([slow(20), slow(5), slow(20), slow(4)]);
    for _ in 0..40 {
        four.read(&written).await;
    }
    let before = four.members.each_ref().map(TestMember::reads);
    for _ in 0..10 {
        four.read(&written).await;
    }
    let after = four.members.each_ref().map(TestMember::reads);
    let asked: Vec<usize> = (0..4).map(|n| after[n] - before[n]).collect();
    assert_eq!(asked, [0, 10, 0, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_any_share_is_noticed_and_repaired() {
    for bad in 0..4 {
        let four = Four::new(3);
        let written = four.put().await.unwrap();
        let share = four.members[bad].len_of(&key());
        for at in [0, share / 2, share - 1] {
            four.members[bad].flip(&key(), at);
            let helper = (bad + 1) % 4;
            let others: Vec<usize> = (0..4).filter(|n| *n != bad && *n != helper).collect();
            // Only the wrong share and one other can be had: better no byte than a wrong one.
            four.only(&others, Fault::Down);
            let error = four.get(&written).await.unwrap_err().to_string();
            assert!(error.contains("is not the one that was written"), "{error}");
            tokio::time::advance(Duration::from_secs(31)).await;
            four.only(&others[..1], Fault::Down);
            // Whether it is asked depends on how fast it was.
            let wrong = four.read(&written).await.wrong;
            assert!(wrong.iter().all(|number| *number == bad), "{wrong:?}");
            let missing = four.stripe.repair_chunk(&four.at(&written), &[bad]).await;
            assert_eq!(missing, Ok(vec![]));
            four.only(&others, Fault::Down);
            assert!(four.read(&written).await.wrong.is_empty());
            four.only(&[], Fault::None);
        }
        // One that came back empty is filled.
        four.members[bad].empty();
        let helper = (bad + 1) % 4;
        let others: Vec<usize> = (0..4).filter(|n| *n != bad && *n != helper).collect();
        let missing = four.stripe.repair_chunk(&four.at(&written), &[bad]).await;
        assert_eq!(missing, Ok(vec![]));
        four.only(&others, Fault::Down);
        four.read(&written).await;
    }
}

#[tokio::test(start_paused = true)]
async fn documents_are_on_three_members_and_a_replaced_one_is_not_lost() {
    let four = Four::new(3);
    let put = |text: &'static str, existing| {
        let document = Bytes::from_static(text.as_bytes());
        let stripe = &four.stripe;
        async move { stripe.put_document(&key(), document, existing).await }
    };
    put("old", Existing::Keep).await.unwrap();
    four.only(&[1, 2], Fault::Down);
    put("new", Existing::Replace).await.unwrap_err();
    four.only(&[], Fault::None);
    let got = four.documents(&key());
    assert_eq!(got[..3], ["new", "old", "old"], "nothing is removed");
    // A new one that did not come to be leaves nothing.
    let other = ObjectKey::parse("m/other").unwrap();
    four.only(&[0, 3], Fault::Full);
    let document = Bytes::from_static(b"x");
    let put = four.stripe.put_document(&other, document, Existing::Keep);
    put.await.unwrap_err();
    assert!(four.members.iter().all(|member| !member.has(&other)));
}

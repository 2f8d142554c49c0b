//! Whatever bytes come: no panic, no hang, and what is written is read back.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::sync::OnceLock;

use common::{ROLAND, ZHENQIANG, key};
use m2y::{
    crypto::{
        SysRng,
        keys::{PrivateKey, PublicKey},
        seal::Key,
    },
    error::{Code, Error},
    json,
    meta::{FileKey, Meta, TransferId, Wire},
    root::{config::Config, contact::Card, name::Name, settings::Settings},
    wire::{
        envelope::{self, Contents, Part},
        header::{AnswerHeader, Header},
        pairing::Document,
        record::{self, Head, Kind, Stream},
    },
};
use proptest::prelude::*;
use zeroize::Zeroizing;

fn keys() -> &'static (PrivateKey, PrivateKey) {
    static KEYS: OnceLock<(PrivateKey, PrivateKey)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let read = |name| PrivateKey::from_pem(&key(name)).unwrap();
        (read(ZHENQIANG), read(ROLAND))
    })
}

fn sealed(json: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (sender, receiver) = keys();
    let bound = b"what stands before it".to_vec();
    let contents = Contents {
        time: 1,
        share: [2; 32],
        json: Zeroizing::new(json.to_vec()),
    };
    let sealed = envelope::seal(
        Part::Opening,
        &bound,
        &contents,
        sender,
        receiver.public(),
        &mut SysRng,
    );
    (bound, sealed.unwrap().bytes)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

prop_compose! {
    fn metas()(
        from in "[a-z]{1,9}", folder in ".*", filename in ".*",
        filesize in proptest::option::of(0..i64::MAX as u64),
        file_crc in proptest::option::of(any::<u32>()),
        error in ".*", id in any::<[u8; 16]>(),
        extra in proptest::collection::btree_map(
            "[x-z].*",
            prop_oneof![
                any::<i64>().prop_map(json::Value::from), ".*".prop_map(json::Value::from),
                any::<bool>().prop_map(json::Value::from), Just(json::Value::Null),
                proptest::collection::vec(any::<u64>(), 0..5).prop_map(json::Value::from),
            ],
            0..5,
        ),
    ) -> Meta {
        Meta {
            from, to: "to".to_owned(), folder, filename,
            datetime: "30-12-2018_23-59-59".to_owned(),
            filesize, file_crc, error, id: Some(TransferId(id)),
            extra: extra.into_iter().collect(),
        }
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn headers_are_read_or_refused(bytes in any::<[u8; 24]>(), version in any::<bool>()) {
        let mut bytes = bytes;
        if version {
            // Most random heads fail at the version; let these come further.
            bytes[..6].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert!((1..=65_536).contains(&header.envelope_len));
            prop_assert_eq!(header.encode(), bytes);
        }
        if let Ok(answer) = AnswerHeader::decode(bytes.first_chunk().unwrap()) {
            prop_assert_eq!(&answer.encode()[..], &bytes[..8]);
        }
    }

    #[test]
    fn records_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut stream = Stream::new(&Key::new([1; 16])).unwrap();
        if let Ok(Some((head, sealed))) = record::split(&mut bytes) {
            prop_assert!(head.len <= record::MAX_BODY);
            prop_assert!(stream.open(head, sealed).is_err());
        }
        let _ = record::decode_error(&bytes);
        let _ = record::decode_trailer(&bytes);
    }

    #[test]
    fn records_come_back_as_they_went(
        kind in any::<u8>(), transfer in any::<u32>(),
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4),
    ) {
        let (mut out, mut back) = (
            Stream::new(&Key::new([1; 16])).unwrap(),
            Stream::new(&Key::new([1; 16])).unwrap(),
        );
        for body in bodies {
            let mut bytes = out.record(Kind::Other(kind), transfer, &body).unwrap();
            let (head, sealed) = record::split(&mut bytes).unwrap().unwrap();
            prop_assert_eq!(head.transfer, transfer);
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
            prop_assert_eq!(&*back.open(head, sealed).unwrap(), &body[..]);
        }
    }

    #[test]
    fn errors_come_back_as_they_went(sentence in ".*") {
        let error = Error::new(Code::Later, sentence);
        prop_assert_eq!(record::decode_error(&record::encode_error(&error)).unwrap(), error);
    }

    #[test]
    fn any_text_is_a_meta_or_is_refused(text in any::<Vec<u8>>()) {
        let _ = Meta::from_file(&text);
        let _ = Wire::from_json(&text);
    }

    #[test]
    fn any_json_is_a_meta_or_is_refused(
        text in "[{}\\[\\]\",:0-9a-z\\\\ .eE+-]{0,80}", field in "(from|filesize|id|datetime|metaCRC)",
    ) {
        let _ = Wire::from_json(text.as_bytes());
        let text = format!("{{\"from\":\"a\",\"{field}\":{text}}}");
        let _ = Meta::from_file(text.as_bytes());
        let _ = Wire::from_json(text.as_bytes());
    }

    #[test]
    fn metas_come_back_as_they_went(meta in metas(), filekey in proptest::option::of(any::<[u8; 32]>())) {
        prop_assume!(meta.filename.len() < 4_000 && meta.error.len() < 4_000);
        prop_assert_eq!(&Meta::from_file(&meta.to_file()).unwrap(), &meta);
        let wire = Wire {
            filekey: filekey.map(|key| FileKey(Zeroizing::new(key))),
            ..Wire::request(meta.clone())
        };
        let back = Wire::from_json(wire.to_json().as_bytes()).unwrap();
        prop_assert_eq!(&back.meta, &meta);
        prop_assert_eq!(back.filekey.map(|key| *key.0), filekey);
        let file = String::from_utf8(meta.to_file()).unwrap();
        prop_assert!(file.contains("\"filekey\": \"\""));
    }

    #[test]
    fn a_changed_character_of_a_meta_is_noticed(meta in metas(), at in any::<prop::sample::Index>()) {
        let mut text = Wire::request(meta.clone()).to_json().as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] ^= 1;
        if let Ok(back) = Wire::from_json(&text) {
            prop_assert_eq!(back.meta, meta);
        }
    }

    #[test]
    fn any_text_is_a_config_or_is_refused(text in any::<String>()) {
        let _ = Config::parse(&text);
        let _ = Settings::parse(&text);
    }

    #[test]
    fn configs_are_read_line_by_line(lines in proptest::collection::vec(
        prop_oneof!["\\[[A-Za-z]{1,8}\\]", "[a-zA-Z.:*/]{1,12}", "[a-z:]{1,8} ?= ?[ -~]{0,12}", "[#;].*", ""], 0..20,
    )) {
        let text = lines.join("\n");
        if let Ok(config) = Config::parse_ini(&text) {
            let entries: usize = {
                let mut names: Vec<_> = config.sections().collect();
                names.sort_unstable();
                names.dedup();
                names.iter().map(|name| config.section(name).count()).sum()
            };
            let written = lines.iter().filter(|l| {
                let l = l.trim();
                !l.is_empty() && !l.starts_with(['[', '#', ';'])
            });
            prop_assert_eq!(entries, written.count(), "{}", text);
        }
    }

    #[test]
    fn any_text_is_a_name_or_is_refused(text in any::<String>()) {
        if let Ok(name) = Name::folder(&text) {
            prop_assert!(!name.as_str().contains(['/', '\\', '\0']) && !text.starts_with('.'));
        }
    }

    #[test]
    fn any_text_is_a_key_or_is_refused(text in any::<String>(), base64 in "[A-Za-z0-9+/=\n]{0,300}") {
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        for text in [text, pem.clone(), pem.replace("PUBLIC", "PRIVATE")] {
            let _ = PublicKey::from_pem(&text);
            let _ = PrivateKey::from_pem(&text);
            let _ = Card::parse("card", text.as_bytes());
            let _ = Document::parse("document", text.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn envelopes_come_back_as_they_went(json in proptest::collection::vec(any::<u8>(), 0..500)) {
        let (sender, receiver) = keys();
        let (bound, bytes) = sealed(&json);
        let opened = envelope::verify(Part::Opening, &bound, &bytes, sender.public())
            .unwrap()
            .open(receiver)
            .unwrap();
        prop_assert_eq!(&*opened.contents.json, &json);
    }

    #[test]
    fn a_changed_envelope_has_no_signature(
        at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>(),
    ) {
        let (sender, _) = keys();
        static SEALED: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
        let (bound, bytes) = SEALED.get_or_init(|| sealed(b"{}"));
        let mut bytes = bytes.clone();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1_u8 << bit,
        }
        prop_assert!(envelope::verify(Part::Opening, bound, &bytes, sender.public()).is_err());
        prop_assert!(envelope::verify(Part::Answer, bound, &bytes, sender.public()).is_err());
    }

    #[test]
    fn any_bytes_are_no_envelope(bytes in proptest::collection::vec(any::<u8>(), 0..1_200)) {
        let (sender, _) = keys();
        prop_assert!(envelope::verify(Part::Opening, b"", &bytes, sender.public()).is_err());
    }

    #[test]
    fn what_a_contact_signed_can_still_be_anything(inner in proptest::collection::vec(any::<u8>(), 0..700)) {
        // Signed by the right key, but no envelope inside: an error, never a panic.
        let (sender, receiver) = keys();
        for inner in [inner.clone(), [&[1], inner.as_slice()].concat()] {
            let message = [b"m2y/1 opening".as_slice(), b"bound", &inner].concat();
            let signature = sender.sign(&message, &mut SysRng).unwrap();
            let bytes = [inner, signature].concat();
            let verified = envelope::verify(Part::Opening, b"bound", &bytes, sender.public());
            prop_assert!(verified.and_then(|v| v.open(receiver)).is_err());
        }
    }
}

//! The connection to a relay by which somebody leaves letters, and asks about them.

use std::time::Duration;

use crate::{
    crypto::SysRng,
    error::{Code, Error},
    json::Value,
    relay::conversation::Conversation,
    session::channel::{Reader, Writer},
    transport::{Addresses, Direct, race},
    wire::{
        WireError,
        header::{self, AnswerHeader},
        post::{Ask, DeliveryStatus, PostKeys, SHARE_LEN},
        session::Share,
    },
};

/// How long a relay may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// The connection to a relay by which letters are left.
pub(super) struct Post {
    pub(super) conversation: Conversation,
}

impl Post {
    /// Connects to the relay that has this key.
    pub(super) async fn open(relay: &Addresses, key: &[u8; 32], gso: bool) -> Result<Self, Error> {
        let dialer = Direct::new(gso);
        let turn = relay.in_turn();
        let (link, _) = race::dial(&dialer, &turn).await.map_err(Error::from)?;
        let (mut reader, mut writer) = (
            Reader::new(link.reader, IDLE),
            Writer::new(link.writer, IDLE),
        );
        let own = Share::new(&mut SysRng).map_err(WireError::from)?;
        writer
            .bytes(&[header::encode_post().as_slice(), &own.public].concat())
            .await?;
        match AnswerHeader::decode(&reader.exact().await?)? {
            AnswerHeader::Envelope(SHARE_LEN) => {}
            _ => {
                let sentence = format!("{relay} keeps no letters now");
                return Err(Error::new(Code::Later, sentence));
            }
        }
        let theirs = reader.exact().await?;
        let keys = PostKeys::of_client(&own, key, &theirs)?;
        let conversation = Conversation::new(reader, writer, [&keys.client, &keys.relay])?;
        Ok(Self { conversation })
    }

    /// What became of letters, of the first ones at least.
    pub(super) async fn statuses(
        &mut self,
        letters: Vec<[u8; 32]>,
    ) -> Result<Vec<DeliveryStatus>, Error> {
        let answer = self.conversation.ask(&Ask::Letters(letters)).await?;
        let each = answer.get("letters").and_then(Value::as_array);
        let each = each.into_iter().flatten().map(DeliveryStatus::from_value);
        Ok(each.collect::<Result<_, _>>()?)
    }

    pub(super) async fn close(self) {
        self.conversation.close().await;
    }
}

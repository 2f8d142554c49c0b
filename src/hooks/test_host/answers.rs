//! What web servers answer the hooks of a test.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    delivery::http::{Answered, Asked},
    hooks::api::http::Web,
};

/// Answers by their URLs, as the test says.
#[derive(Default)]
pub struct Answers(Mutex<BTreeMap<String, Answered>>);

impl Answers {
    /// From now on requests to a URL get this answer.
    pub fn set(&self, url: &str, answered: Answered) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(url.to_owned(), answered);
    }
}

impl Web for Answers {
    fn ask(&self, asked: &Asked, _: Duration) -> Result<Answered, String> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&asked.url).cloned().ok_or_else(|| {
            "a test asks no server: say what it answers with answer(url, status, body)".to_owned()
        })
    }
}

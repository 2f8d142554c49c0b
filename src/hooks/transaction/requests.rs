//! What the scripts of one event asked servers, and what these answered: if the scripts run again
//! because something else has changed meanwhile, they need not ask again.

use crate::delivery::http::{Answered, Asked};

/// What came of a request: an answer or, in words, why there is none.
pub type Answer = Result<Answered, String>;

/// Requests of one event, in their order.
#[derive(Clone, Default)]
pub struct Requests {
    known: Vec<(Asked, Answer)>,
    /// How many of them the scripts have made so far.
    made: usize,
}

impl Requests {
    /// How many were made, those without an answer included.
    pub fn made(&self) -> usize {
        self.made
    }

    /// What came of the next request, if it is the one that was made last time.
    pub fn recall(&mut self, asked: &Asked) -> Option<Answer> {
        let known = self.known.get(self.made);
        let answered = known
            .filter(|(before, _)| before == asked)
            .map(|(_, answered)| answered.clone());
        match answered {
            Some(_) => self.made += 1,
            // From here on the scripts take a different path.
            None => self.known.truncate(self.made),
        }
        answered
    }

    /// Remembers what came of a request that was made just now.
    pub fn remember(&mut self, asked: Asked, answered: Answer) {
        self.known.truncate(self.made);
        self.known.push((asked, answered));
        self.made += 1;
    }

    /// The scripts run again.
    pub fn rewind(&mut self) {
        self.made = 0;
    }
}

#[cfg(test)]
mod tests {
    use hyper::{Method, body::Bytes};

    use super::*;

    fn asked(url: &str) -> Asked {
        Asked {
            method: Method::GET,
            url: url.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    fn answered(status: u16) -> Answer {
        Ok(Answered {
            status,
            media_type: String::new(),
            body: Bytes::new(),
        })
    }

    #[test]
    fn scripts_that_run_again_ask_again_only_from_where_they_go_another_way() {
        let mut requests = Requests::default();
        for (url, status) in [("a", 200), ("b", 201), ("c", 202)] {
            assert_eq!(requests.recall(&asked(url)), None);
            requests.remember(asked(url), answered(status));
        }
        requests.rewind();
        assert_eq!(requests.recall(&asked("a")), Some(answered(200)));
        assert_eq!(requests.recall(&asked("x")), None);
        requests.remember(asked("x"), answered(404));
        // What was answered after that was about something else.
        assert_eq!(requests.recall(&asked("c")), None);
        assert_eq!(requests.made(), 2);
    }
}

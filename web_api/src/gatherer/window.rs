//! How many questions a model is sent at the same time.
//!
//! As many as there are, until it says "later": what it has taken then is what is still under way, and no more are sent.
//! Whenever as many have been answered, one more is tried, as TCP does it where it avoids congestion (RFC 5681 §3.1).
//! A refusal says exactly how many there may be, so nothing has to be halved.

use std::time::Duration;

use http::StatusCode;
use open_inference::Inference;
use tokio::time::Instant;

use crate::error::Error;

/// So long after a model has said "later" it is forgotten, as soon as no question is under way.
const LATER: Duration = Duration::from_secs(1);

/// The questions that are under way to a model, and how many there may be.
#[derive(Debug, Default)]
pub struct Window {
    under_way: usize,
    bound: Option<Bound>,
}

/// What a model takes that has said "later".
#[derive(Debug)]
struct Bound {
    /// Questions at the same time.
    most: usize,
    /// Questions answered since there was last one more.
    answered: usize,
    /// When it last said so.
    since: Instant,
    /// In which words.
    words: Error,
}

/// What became of a question.
#[derive(Debug)]
pub enum End {
    /// Its asker has gone, or an error that does not tell how much the model takes.
    Other,
    /// It was answered.
    Answered,
    /// The model said "later", in these words.
    Later(Error),
}

impl Window {
    /// One more question, or what the model said when it took no more.
    pub fn admit(&mut self) -> Result<(), Error> {
        self.bound.take_if(|bound| self.under_way == 0 && bound.since.elapsed() > LATER);
        match &self.bound {
            Some(bound) if self.under_way >= bound.most => Err(bound.words.clone()),
            _ => {
                self.under_way += 1;
                Ok(())
            }
        }
    }

    /// One question less.
    pub fn leave(&mut self, end: End) {
        self.under_way -= 1;
        match (end, &mut self.bound) {
            (End::Later(words), bound) => {
                let most = bound.as_ref().map_or(self.under_way, |bound| bound.most.min(self.under_way)).max(1);
                *bound = Some(Bound { most, answered: 0, since: Instant::now(), words });
            }
            (End::Answered, Some(bound)) => bound.answer(),
            (End::Answered, None) | (End::Other, _) => {}
        }
    }
}

impl Bound {
    fn answer(&mut self) {
        self.answered += 1;
        if self.answered >= self.most {
            self.most += 1;
            self.answered = 0;
        }
    }
}

impl End {
    /// What this answer tells.
    pub fn of(answer: &Result<Inference, Error>) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(error @ Error::Model(_)) if error.status().0 == StatusCode::SERVICE_UNAVAILABLE => {
                Self::Later(error.clone())
            }
            Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn later() -> End {
        End::Later(Error::Busy)
    }

    /// So many questions have been sent.
    fn window(under_way: usize) -> Window {
        Window { under_way, bound: None }
    }

    #[test]
    fn as_many_are_sent_as_were_taken_and_one_more_for_as_many_answers() {
        let mut window = window(50);
        (0..46).for_each(|_| window.leave(later()));
        assert!(matches!(window.admit(), Err(Error::Busy)), "it has taken four");
        for most in [4, 5] {
            for _ in 0..most {
                assert!(window.admit().is_err(), "{window:?}");
                window.leave(End::Answered);
                window.admit().unwrap();
            }
            window.admit().expect("one more is tried");
            assert_eq!(window.under_way, most + 1);
        }
        window.leave(later());
        assert!(window.admit().is_err(), "the sixth was too much");
        window.leave(End::Other);
        assert!(window.admit().is_ok(), "who has gone makes room");
    }

    #[test]
    fn a_late_refusal_does_not_let_more_in() {
        let mut window = window(50);
        (0..48).for_each(|_| window.leave(later()));
        window.under_way = 40;
        window.leave(later());
        assert_eq!(window.bound.unwrap().most, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_forgotten_when_all_have_been_answered_a_second_later() {
        let mut window = window(2);
        window.leave(later());
        advance(LATER * 2).await;
        assert!(window.admit().is_err(), "one is under way");
        window.leave(End::Answered);
        for _ in 0..50 {
            window.admit().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_just_now_is_not_forgotten() {
        let mut window = window(1);
        window.leave(later());
        window.admit().unwrap();
        assert!(window.admit().is_err());
    }
}

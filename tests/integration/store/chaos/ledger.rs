//! What a caller was told of its sessions, and whether it is found again.

/// One session, as its caller knows it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) turns: Vec<Turn>,
    pub(crate) life: Life,
}

/// A prompt, and what its caller was told of it last.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) prompt: String,
    pub(crate) end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// With this answer. It is surely there.
    Answered { answer: String, attempts: usize },
    /// It was cut, or its end is not known: it may be there once.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Living,
    Deleted,
}

impl Account {
    pub(crate) fn new(id: String) -> Self {
        Self { id, turns: Vec::new(), life: Life::Living }
    }

    /// How many prompts there are at least and at most before the next one.
    pub(crate) fn before(&self) -> std::ops::RangeInclusive<usize> {
        let answered = self.turns.iter().filter(|turn| turn.end != End::Cut).count();
        answered..=self.turns.len()
    }

    /// What is wrong with what was said in the session by its history, prompts with a `>` before them.
    pub(crate) fn problems(&self, history: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut least = 0;
        for Turn { prompt, end } in &self.turns {
            let said = format!("> {prompt}");
            let asked = places(history, |line| *line == said);
            let answered = places(history, |line| super::script::seen_before(line, prompt).is_some());
            let in_order = asked.first().is_none_or(|first| *first >= least);
            least = asked.iter().chain(&answered).max().map_or(least, |last| last + 1);
            let is_right = match end {
                End::Answered { answer, .. } => {
                    asked.len() == 1 && answered.len() == 1 && history[answered[0]] == *answer
                }
                End::Cut => asked.len() <= 1 && answered.len() <= 1,
            };
            if !is_right || !in_order {
                problems.push(format!(
                    "{}: {prompt:?}, {end:?}: asked at {asked:?}, answered at {answered:?}",
                    self.id
                ));
            }
        }
        let known = self.turns.iter().map(|turn| format!("> {}", turn.prompt)).collect::<Vec<_>>();
        let strange = history.iter().filter(|line| line.starts_with("> ") && !known.contains(line));
        problems.extend(strange.map(|line| format!("{}: nobody has said {line:?}", self.id)));
        problems
    }
}

fn places(history: &[String], is_it: impl Fn(&String) -> bool) -> Vec<usize> {
    history.iter().enumerate().filter(|(_, line)| is_it(line)).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(turns: &[(&str, bool)]) -> Account {
        let turns = turns.iter().map(|(prompt, is_answered)| Turn {
            prompt: (*prompt).into(),
            end: match is_answered {
                true => End::Answered { answer: format!("{prompt} after 0 others"), attempts: 1 },
                false => End::Cut,
            },
        });
        Account { turns: turns.collect(), ..Account::new("s".into()) }
    }

    #[test]
    fn what_is_lost_or_doubled_or_out_of_order_is_seen() {
        let (one, two) = (("> 1", "1 after 0 others"), ("> 2", "2 after 0 others"));
        let both = account(&[("1", true), ("2", true)]);
        let cut = account(&[("1", false), ("2", true)]);
        for (account, history, problems) in [
            (&both, vec![one.0, one.1, two.0, two.1], 0),
            (&both, vec![two.0, two.1, one.0, one.1], 1),
            (&both, vec![one.0, one.1, two.0, two.1, two.0, two.1], 1),
            (&both, vec![one.0, one.1, two.0], 1),
            (&both, vec![one.0, one.1], 1),
            (&both, vec![one.0, one.1, two.0, two.1, "> 3"], 1),
            (&cut, vec![two.0, two.1], 0),
            (&cut, vec![one.0, two.0, two.1], 0),
            (&cut, vec![one.0, one.1, two.0, two.1], 0),
            (&cut, vec![one.0, one.0, two.0, two.1], 1),
        ] {
            let history: Vec<_> = history.into_iter().map(str::to_owned).collect();
            assert_eq!(account.problems(&history).len(), problems, "{history:?}");
        }
    }
}

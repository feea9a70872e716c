//! How attention is cut into parts, of which one's scores exist at a time.

use std::ops::Range;

use crate::batch::Span;

/// Queries of one row, and the keys that they look at but for those that lie ahead of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) queries: Range<usize>,
    /// Those of the prefix, then the row's own.
    pub(crate) keys: [Range<usize>; 2],
    /// How many keys the first query sees; each further one sees one more.
    pub(crate) seen: usize,
}

impl Run {
    fn keys_len(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
    }

    /// Scores of one head.
    fn scores(&self) -> usize {
        self.queries.len() * self.keys_len()
    }
}

/// Cuts spans into runs of at most `chunk` queries, and puts runs of like size together as long as their scores are at
/// most `budget`, padding included, and at most half as many again as without padding.
///
/// A run sees no keys behind its last query, so that runs also save up to half of a long span's scores.
pub(crate) fn parts(spans: &[Span], chunk: usize, budget: usize) -> Vec<Vec<Run>> {
    let mut all: Vec<Run> = spans.iter().flat_map(|span| runs(span, chunk)).collect();
    all.sort_by_key(|run| (run.keys_len(), run.queries.len())); // stable: equal batches are cut equally
    let mut parts: Vec<Vec<Run>> = Vec::new();
    let (mut queries, mut exact) = (0, 0);
    for run in all {
        let (longest, sum) = (run.queries.len().max(queries), exact + run.scores());
        let joins = parts.last().is_some_and(|part| {
            // Sorted by keys, so that this run's are the longest.
            let padded = (part.len() + 1) * longest * run.keys_len();
            padded <= budget && 2 * padded <= 3 * sum
        });
        match parts.last_mut().filter(|_| joins) {
            Some(part) => {
                (queries, exact) = (longest, sum);
                part.push(run);
            }
            None => {
                (queries, exact) = (run.queries.len(), run.scores());
                parts.push(vec![run]);
            }
        }
    }
    parts
}

fn runs(span: &Span, chunk: usize) -> impl Iterator<Item = Run> + '_ {
    let Span { prefix, own } = span;
    own.clone().step_by(chunk).map(move |start| {
        let end = own.end.min(start.saturating_add(chunk));
        Run { queries: start..end, keys: [prefix.clone(), own.start..end], seen: prefix.len() + start - own.start + 1 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(prefix: Range<usize>, own: Range<usize>) -> Span {
        Span { prefix, own }
    }

    #[test]
    fn a_long_span_goes_in_runs_that_see_no_further_than_their_last_query() {
        let run = |queries: Range<usize>, seen| Run { keys: [0..3, 5..queries.end], queries, seen };
        let found = parts(&[span(0..3, 5..12)], 3, 1);
        assert_eq!(found, [[run(5..8, 4)], [run(8..11, 7)], [run(11..12, 10)]]);
    }

    #[test]
    fn runs_of_like_size_go_together_up_to_the_budget() {
        let spans = [span(0..0, 0..4), span(4..4, 4..104), span(104..104, 104..107), span(107..107, 107..111)];
        let sizes = |budget| -> Vec<usize> { parts(&spans, usize::MAX, budget).iter().map(Vec::len).collect() };
        assert_eq!(sizes(1 << 20), [3, 1], "a long run would pad the short ones");
        assert_eq!(sizes(32), [2, 1, 1]);
    }
}

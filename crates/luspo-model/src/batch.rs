use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows to score, each a prompt and a response.
///
/// The host-side plan of who goes where: the trunk reads all but each row's last token, right-padded; the head sees
/// only the positions that predict a response token, packed without padding; results are spread to `[rows, seq]` over
/// response tokens again.
#[derive(Clone, Debug)]
pub struct ResponseBatch {
    lengths: Vec<usize>,
    /// Longest response.
    seq: usize,
    /// Longest prompt and response together, less the last token.
    width: usize,
    /// What the trunk reads, `[rows, width]`.
    ids: Vec<i64>,
    /// Where each response token is predicted, as an index into `[rows, width]`, row by row.
    positions: Vec<i64>,
    /// The response tokens, in the same order.
    targets: Vec<i64>,
}

impl ResponseBatch {
    /// The batch of the given (prompt, response) rows, in their order.
    ///
    /// # Panics
    /// On an empty prompt (its response's first token would have no predecessor), or if no row has a response.
    pub fn new(rows: &[(&[u32], &[u32])]) -> Self {
        assert!(rows.iter().all(|(prompt, _)| !prompt.is_empty()), "every row needs a prompt of at least one token");
        let lengths: Vec<usize> = rows.iter().map(|(_, response)| response.len()).collect();
        let seq = lengths.iter().copied().max().unwrap_or(0);
        assert!(seq > 0, "a batch needs at least one response token");
        let width = rows.iter().map(|(prompt, response)| prompt.len() + response.len() - 1).max().unwrap_or(0);

        let mut ids = vec![0; rows.len() * width];
        let mut positions = Vec::new();
        let mut targets = Vec::new();
        for (row, (prompt, response)) in rows.iter().enumerate() {
            let start = row * width;
            let tokens = prompt.iter().chain(response.iter()).map(|id| i64::from(*id));
            // A row without a response may be one longer than `width`; nobody asks for its last token.
            for (slot, id) in ids[start..start + width].iter_mut().zip(tokens) {
                *slot = id;
            }
            positions.extend((0..response.len()).map(|t| (start + prompt.len() - 1 + t) as i64));
            targets.extend(response.iter().map(|id| i64::from(*id)));
        }
        Self { lengths, seq, width, ids, positions, targets }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Length of the longest response, in tokens.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Length of each response, in tokens.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Response tokens of all rows.
    pub(crate) fn tokens(&self) -> usize {
        self.targets.len()
    }

    /// What the trunk reads, `[rows, width]`.
    pub(crate) fn ids(&self, device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(self.ids.clone(), [self.rows(), self.width]), device)
    }

    /// The packed response tokens.
    pub(crate) fn targets(&self) -> &[i64] {
        &self.targets
    }

    /// Where the trunk's states predict a response token, `[tokens]`, as indices into `[rows · width]`.
    pub(crate) fn positions(&self, device: &Device) -> Tensor<1, Int> {
        index(self.positions.clone(), device)
    }

    /// `[rows, seq]` → `[tokens, 1]`, whatever stands in the padding.
    pub(crate) fn pack_tokens(&self, values: Tensor<2>) -> Tensor<2> {
        let device = values.device();
        let slots = self.slots().map(|slot| slot as i64).collect();
        values.reshape([self.rows() * self.seq, 1]).select(0, index(slots, &device))
    }

    /// `[tokens, 1]` → `[rows, seq]`, right-padded with 0.
    pub(crate) fn spread_tokens(&self, packed: Tensor<2>) -> Tensor<2> {
        let device = packed.device();
        let mut source = vec![self.tokens() as i64; self.rows() * self.seq];
        for (token, slot) in self.slots().enumerate() {
            source[slot] = token as i64;
        }
        let with_zero = Tensor::cat(vec![packed, Tensor::zeros([1, 1], &device)], 0);
        with_zero.select(0, index(source, &device)).reshape([self.rows(), self.seq])
    }

    /// Where each packed token stands in `[rows, seq]`.
    fn slots(&self) -> impl Iterator<Item = usize> {
        let seq = self.seq;
        self.lengths.iter().enumerate().flat_map(move |(row, length)| (0..*length).map(move |t| row * seq + t))
    }
}

fn index(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let size = values.len();
    Tensor::from_data(TensorData::new(values, [size]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;

    fn batch() -> ResponseBatch {
        ResponseBatch::new(&[(&[1, 2, 3], &[4]), (&[5], &[6, 7, 8]), (&[9, 9, 9, 9, 9], &[])])
    }

    #[test]
    fn the_trunk_reads_all_but_the_last_token() {
        let batch = batch();
        assert_eq!((batch.rows(), batch.seq(), batch.lengths()), (3, 3, &[1, 3, 0][..]));
        assert_eq!(batch.width, 4);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]);
        assert_eq!(batch.positions, [2, 4, 5, 6]);
        assert_eq!(batch.targets, [4, 6, 7, 8]);
    }

    #[test]
    fn packing_forgets_the_padding_and_spreading_zeroes_it() {
        let device = Backend::Flex.device().unwrap();
        let batch = batch();
        let nan = f32::NAN;
        let values = Tensor::<2>::from_data([[1.0, nan, nan], [2.0, 3.0, 4.0], [nan, nan, nan]], &device);
        let packed = batch.pack_tokens(values);
        assert_eq!(packed.to_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let spread = batch.spread_tokens(packed);
        assert_eq!(spread.to_data().try_to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
    }
}

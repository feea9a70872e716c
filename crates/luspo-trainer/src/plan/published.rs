//! The shapes of Qwen2.5 as published, so that memory can be predicted before anything is downloaded.

use std::path::Path;

use luspo_model::Qwen2Config;

/// Name; hidden, intermediate, blocks, query heads, key heads, vocabulary; and whether embedding and head are tied: as in
/// the `config.json` of each model on the Hugging Face hub.
const QWEN2_5: [(&str, [usize; 6], bool); 7] = [
    ("0.5B", [896, 4864, 24, 14, 2, 151_936], true),
    ("1.5B", [1536, 8960, 28, 12, 2, 151_936], true),
    ("3B", [2048, 11_008, 36, 16, 2, 151_936], true),
    ("7B", [3584, 18_944, 28, 28, 4, 152_064], false),
    ("14B", [5120, 13_824, 48, 40, 8, 152_064], false),
    ("32B", [5120, 27_648, 64, 40, 8, 152_064], false),
    ("72B", [8192, 29_568, 80, 64, 8, 152_064], false),
];

/// The shape that a folder of this name will have, if the name is that of a Qwen2.5 model: `models/Qwen2.5-7B`,
/// `Qwen/Qwen2.5-0.5B-Instruct`.
pub(super) fn shape_by_name(path: &Path) -> Option<Qwen2Config> {
    let name = path.file_name()?.to_str()?;
    let name = name.split_once('@').map_or(name, |(name, _revision)| name);
    let size = name.strip_prefix("Qwen2.5-")?.trim_start_matches("Math-").trim_start_matches("Coder-");
    let size = size.trim_end_matches("-Instruct");
    let (_, [hidden, feed, blocks, heads, kv_heads, vocab], tied) = *QWEN2_5.iter().find(|(name, ..)| *name == size)?;
    Some(Qwen2Config::new(vocab, hidden, feed, blocks, heads, kv_heads).with_tie_word_embeddings(tied))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_shapes_have_the_published_numbers_of_parameters() {
        // In millions, from the model cards: with embeddings 0.49 B, 1.54 B, 3.09 B, 7.61 B, 14.7 B, 32.5 B, 72.7 B.
        let published = [494, 1544, 3086, 7616, 14_770, 32_764, 72_706];
        for ((name, ..), millions) in QWEN2_5.iter().zip(published) {
            let shape = shape_by_name(Path::new(&format!("models/Qwen2.5-{name}"))).unwrap();
            shape.validate().unwrap();
            assert_eq!((shape.num_params() as f64 / 1e6).round() as usize, millions, "{name}");
        }
        assert!(shape_by_name(Path::new("Qwen/Qwen2.5-7B-Instruct")).is_some());
        assert!(shape_by_name(Path::new("Qwen/Qwen2.5-7B@main")).is_some());
        assert!(shape_by_name(Path::new("models/llama-7B")).is_none());
        assert!(shape_by_name(Path::new("models/Qwen2.5-8B")).is_none());
    }
}

//! Units and other words after a number, so far that two spellings of one unit are the same.

/// Words that multiply the number before them.
pub(super) fn scale(word: &str) -> Option<i64> {
    Some(match word.to_lowercase().as_str() {
        "hundred" => 100,
        "thousand" => 1_000,
        "million" => 1_000_000,
        "billion" => 1_000_000_000,
        "trillion" => 1_000_000_000_000,
        "dozen" => 12,
        _ => return None,
    })
}

pub(super) fn is_percent(word: &str) -> bool {
    matches!(word.to_lowercase().as_str(), "percent" | "pct" | "percentage")
}

/// Words that turn the number before them into something else than that number.
pub(super) fn changes_the_number(word: &str) -> bool {
    matches!(
        word.to_lowercase().as_str(),
        "not"
            | "than"
            | "less"
            | "more"
            | "least"
            | "most"
            | "to"
            | "through"
            | "times"
            | "squared"
            | "cubed"
            | "plus"
            | "minus"
            | "over"
            | "divided"
            | "multiplied"
            | "between"
            | "except"
            | "but"
            | "above"
            | "below"
            | "factorial"
    )
}

/// One spelling of a unit's word: singular, in full, in lower case.
pub(super) fn canonical(word: &str) -> String {
    // The case of a unit's letter has a meaning: mW and MW.
    let lower = word.to_lowercase();
    let name = match lower.as_str() {
        "cm" | "centimeters" | "centimetre" | "centimetres" => "centimeter",
        "mm" | "millimeters" | "millimetres" => "millimeter",
        "km" | "kilometers" | "kilometre" | "kilometres" => "kilometer",
        "m" | "meters" | "metre" | "metres" => "meter",
        "in" | "inches" => "inch",
        "ft" | "feet" => "foot",
        "yd" | "yards" => "yard",
        "mi" | "miles" => "mile",
        "g" | "gm" | "grams" => "gram",
        "kg" | "kilograms" => "kilogram",
        "lb" | "lbs" | "pounds" => "pound",
        "oz" | "ounces" => "ounce",
        "s" | "sec" | "secs" | "seconds" => "second",
        "min" | "mins" | "minutes" => "minute",
        "h" | "hr" | "hrs" | "hours" => "hour",
        "ml" | "milliliters" => "milliliter",
        "l" | "liters" | "litre" | "litres" => "liter",
        "deg" | "degs" | "degrees" => "degree",
        "rad" | "radians" => "radian",
        "usd" | "dollars" | "bucks" => "dollar",
        "cents" => "cent",
        "people" | "persons" => "person",
        _ => {
            let singular = lower.strip_suffix('s').filter(|rest| rest.len() > 2 && !rest.ends_with('s'));
            return singular.unwrap_or(&lower).to_string();
        }
    };
    name.into()
}

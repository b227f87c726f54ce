"""The computation behind the command `evaluate`: its options, the features it loads, and what it measures of them."""

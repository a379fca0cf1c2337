"""The zoo: networks of other libraries that are converted, trained, exported and grown."""

"""Tables, figures, pages and result files, for every experiment."""

"""The panes of the main screen: one widget per view, without logic of their own."""

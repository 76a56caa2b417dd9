"""``vmviz bench``: the simulator, the views and the app beside the real kernel and the usual tools."""

"""`brightfield view`: the cells of a dataset in a browser, or in napari."""

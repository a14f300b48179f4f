"""The notebooks: made from scripts, run against the live lab, drawn from what was recorded.

`script` makes the files, `play` runs and renders them, `server` opens them in JupyterLab. What a
notebook itself imports is `hands` (brokers, workers, events) and `pictures`.
"""

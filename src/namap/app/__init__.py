"""The explorer, `namap app`: a page on which a query's analogies are found, refined, walked through and kept.

`views` computes, `sharing` and `archives` read and write files; `looks` and `page` show it all with Gradio, `server`
guards and serves.
"""

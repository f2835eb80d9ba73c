"""Writing back: the one room that writes to a memory in SQLite, when somebody goes back to it from LadybugDB.

It knows SQLite and the file in which a worker wrote what is to be carried back; not the engine, and not why.
"""

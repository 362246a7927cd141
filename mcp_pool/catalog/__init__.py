"""What all servers offer.

* `catalog`: the merged views of what all servers offer
* `view`: one view, as it was at one moment
"""
